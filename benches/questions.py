"""English questions with contexts that are not easy to tell apart, from facts.txt and a seed.

Random text would not do: of pairs that mean nothing every score is near 0, and a ranking of such scores says
little about an error. Here a context answers in the question's words or in others, alone or within a longer
passage; most of the rest share words with it: the same thing's other facts, other things' same fact, the
question itself without its answer.
"""

import random
from dataclasses import dataclass, field
from pathlib import Path

from benches.contenders import Groups

FACTS = Path(__file__).resolve().parent / "facts.txt"
CONTEXTS = 20
# Sentences that say nothing; they make passages longer.
FILLERS = (
    "This page was last checked in spring.",
    "Opinions differ, and so do the sources.",
    "We thank our readers for their letters.",
    "There is more on the subject in the next chapter.",
    "The picture above was taken by a visitor.",
    "Ask at the desk if anything is unclear.",
)


@dataclass
class Attribute:
    """Ways to ask for it, and ways to say it. {x} is the thing, {v} the value."""

    name: str
    questions: list[str] = field(default_factory=list)
    statements: list[str] = field(default_factory=list)


@dataclass
class Domain:
    name: str
    attributes: list[Attribute] = field(default_factory=list)
    # Each thing's values, one for each attribute.
    things: dict[str, list[str]] = field(default_factory=dict)


@dataclass(frozen=True)
class Fact:
    domain: Domain
    thing: str
    attribute: int

    def fill(self, template: str) -> str:
        text = template.format(x=self.thing, v=self.domain.things[self.thing][self.attribute])
        return text[0].upper() + text[1:]

    def questions(self) -> list[str]:
        return [self.fill(template) for template in self.domain.attributes[self.attribute].questions]

    def statements(self) -> list[str]:
        return [self.fill(template) for template in self.domain.attributes[self.attribute].statements]


def read() -> list[Domain]:
    """facts.txt; its first lines say how it is written."""
    domains: list[Domain] = []
    for line in FACTS.read_text(encoding="utf-8").splitlines():
        mark, _, rest = line.partition(" ")
        if mark == "##":
            domains.append(Domain(rest))
        elif not domains or not line:
            continue
        elif mark == "?":
            domains[-1].attributes[-1].questions.append(rest)
        elif mark == "!":
            domains[-1].attributes[-1].statements.append(rest)
        elif " | " in line:
            thing, *values = line.split(" | ")
            domains[-1].things[thing] = values
        else:
            domains[-1].attributes.append(Attribute(line))
    return domains


def facts(domains: list[Domain]) -> list[Fact]:
    return [
        Fact(domain, thing, attribute)
        for domain in domains
        for thing in domain.things
        for attribute in range(len(domain.attributes))
    ]


class Writer:
    """Draws the contexts of one fact after the other."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.facts = facts(read())

    def say(self, fact: Fact) -> str:
        return self.random.choice(fact.statements())

    def passage(self, *told: Fact) -> str:
        """The facts in some order, at times with a sentence that says nothing."""
        sentences = [self.say(fact) for fact in told]
        if self.random.random() < 0.5:
            sentences.append(self.random.choice(FILLERS))
        self.random.shuffle(sentences)
        return " ".join(sentences)

    def group(self, fact: Fact) -> tuple[str, list[str]]:
        """A question about the fact, and its contexts."""
        here = [other for other in self.facts if other.domain is fact.domain]
        own = [other for other in here if other.thing == fact.thing and other != fact]
        same = [other for other in here if other.attribute == fact.attribute and other != fact]
        rest = [other for other in here if other.thing != fact.thing and other not in same]
        strange = [other for other in self.facts if other.domain is not fact.domain]
        draw = self.random.sample
        question, unanswered, *_ = draw(fact.questions(), 3)
        near, far = draw(same, 5), draw(rest, 3)
        contexts = [
            # One to three that answer.
            self.say(fact),
            *(self.passage(fact, other) for other in draw(own, self.random.randint(0, 1))),
            *(self.passage(fact, *draw(own, 1), other) for other in draw(near, self.random.randint(0, 1))),
            # The same thing, and other things of its kind.
            *(self.say(other) for other in own),
            self.passage(*own),
            f"{unanswered} {self.random.choice(FILLERS)}",
            *(self.say(other) for other in near[:4]),
            self.passage(near[4], own[0]),
            self.passage(near[0], near[1], own[1]),
            *(self.passage(other) for other in far),
        ]
        contexts = list(dict.fromkeys(contexts))
        # And what has nothing to do with it.
        while len(contexts) < CONTEXTS:
            context = self.passage(*draw(strange, self.random.randint(1, 2)))
            if context not in contexts:
                contexts.append(context)
        self.random.shuffle(contexts)
        return question, contexts


def groups(count: int, seed: int = 11) -> Groups:
    """So many questions, each about another fact, with CONTEXTS contexts each."""
    writer = Writer(seed)
    if count > len(writer.facts):
        raise ValueError(f"count: there are {len(writer.facts)} facts to ask about, not {count}")
    return [writer.group(fact) for fact in writer.random.sample(writer.facts, count)]
