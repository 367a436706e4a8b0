"""Prints how Reranker ranks, in process: `python in_process.py`, with {"query", "contexts"} on its input.

Run by the server's interpreter, since the clients' have no rerankd. Prints [[id, score], ...], best first.
"""

import json
import sys

from rerankd import Reranker


def main() -> None:
    asked = json.load(sys.stdin)
    with Reranker("mini-en") as reranker:
        ranking = reranker.rank(asked["query"], asked["contexts"])
    print(json.dumps([(result.id, result.score) for result in ranking]))


if __name__ == "__main__":
    main()
