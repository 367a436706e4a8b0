"""Answers: the same ids and scores, to the bit, as Reranker has in process."""

from __future__ import annotations

from rerankd import Reranker

from interop.conftest import Cell
from interop.outcomes import SAME, answers
from interop.programs import Program
from interop.questions import QUESTIONS
from interop.servers import Server


def test_ok(cell: Cell, plain: Server, program: Program, mode: str, reranker: Reranker) -> None:
    expected = answers(reranker, QUESTIONS, mode)
    cell("ok", expected, program.ask(mode, plain.target, QUESTIONS), SAME)
