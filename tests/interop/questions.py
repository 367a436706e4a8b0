"""What the programs are asked."""

from __future__ import annotations

from interop.programs import Line

# Of several kinds: cut to the best, in more than one message of a stream, of other scripts, of nothing.
QUESTIONS: list[Line] = [
    {
        "query": "How do I keep bread fresh for longer?",
        "contexts": [
            "Bread and butter letters were customary after a stay.",
            "Wrap the loaf in a cloth and store it at room temperature, cut side down.",
            "The bakery on Main Street opens at six.",
            "Freezing slices preserves them for up to three months.",
        ],
        "top_k": 2,
    },
    {"query": "a river", "contexts": [f"The {at}th river runs through a valley." for at in range(40)]},
    {"query": "Où est la gare ?", "contexts": ["駅はどこですか", 'Der Bahnhof: "gleich" dort \\ hier', " "]},
    {"query": "anything", "contexts": [], "budget_ms": 60000},
]
BRIEF: Line = {"query": "a river", "contexts": ["The river runs through a valley."]}
# As many tokens as a pair may have. WORK is a second or more for a server with one thread, which is enough
# to be seen at it; LONG is never computed to its end.
_FULL = "a river runs through a wide green valley " * 60
WORK: Line = {"query": "a river", "contexts": [_FULL] * 8}
LONG: Line = {"query": "a river", "contexts": [_FULL] * 400}
