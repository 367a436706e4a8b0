"""What `make fuzz` does to messages: that it is wrong in all the ways it says, and the same every time."""

from __future__ import annotations

import random

import pytest
from google.protobuf.message import DecodeError
from rerankd.v1 import rerank_pb2 as pb
from support import ask

from benches import fuzz
from benches.mutators import MUTATORS, decode, encode, mutate

WHOLE = ask(contexts=["a context", "another"], top_k=1, min_score=0.5).SerializeToString()


def parses(message: bytes) -> bool:
    try:
        pb.RerankRequest.FromString(message)
    except DecodeError:
        return False
    return True


def test_a_message_is_its_fields() -> None:
    assert b"".join(encode(*field) for field in decode(WHOLE)) == WHOLE
    assert [number for number, _, _ in decode(WHOLE)] == [1, 2, 2, 3, 8]
    assert decode(b"\xff\xff") == decode(WHOLE[:-1]) == []


@pytest.mark.parametrize("name", MUTATORS)
def test_a_mutator_changes_messages(name: str) -> None:
    rng = random.Random(name)
    made = [MUTATORS[name](rng, WHOLE) for _ in range(200)]
    assert len({message for message in made if message != WHOLE}) > 4
    refused = sum(not parses(message) for message in made)
    if name in ("a field repeated", "a field left out"):
        assert refused == 0  # wrong, if at all, in what it says
    elif name == "a length past the end":
        assert refused == len(made)
    elif name != "another number":
        assert refused > 0
    # A message that is none already is no trouble.
    for message in (b"", b"\xff\xff\xff"):
        MUTATORS[name](rng, message)


def test_wrong_messages_are_met_in_every_part() -> None:
    rng = random.Random(1)
    kinds = {parses(mutate(rng, WHOLE)) for _ in range(100)}
    assert kinds == {True, False}


def test_a_seed_makes_the_same_messages() -> None:
    made = list(fuzz.messages(7, 300))
    assert made == list(fuzz.messages(7, 300))
    assert made[:100] == list(fuzz.messages(7, 100))
    assert made != list(fuzz.messages(8, 300))
    assert {method for _, method, _, _ in made} == {"Rerank", "RerankStream", "RerankBatch", "ListModels"}
