"""A request's other end, with no network: headers, bodies, deadlines, and callers who leave."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from rerankd import http_calls
from rerankd.errors import DeadlineError, InputError
from rerankd.http_calls import GoneError
from rerankd.http_errors import RefusedError
from starlette.types import Message, Receive
from support import PATIENCE


def receive(*parts: bytes | None) -> Receive:
    """Gives the parts of a body; None: the caller leaves. After the last, silence."""
    left = list(parts)

    async def give() -> Message:
        if not left:
            await asyncio.Event().wait()
        part = left.pop(0)
        if part is None:
            return {"type": "http.disconnect"}
        return {"type": "http.request", "body": part, "more_body": bool(left)}

    return give


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, 300.0),
        ({"x-request-timeout-ms": "1500"}, 1.5),
        ({"x-request-timeout-ms": "900000"}, 300.0),
        ({"grpc-timeout": "250m"}, 0.25),
        ({"grpc-timeout": "2S"}, 2.0),
        ({"grpc-timeout": "1H"}, 300.0),
        ({"grpc-timeout": "9S", "x-request-timeout-ms": "5000"}, 5.0),
    ],
)
def test_the_earliest_deadline_counts(headers: dict[str, str], seconds: float) -> None:
    assert http_calls.seconds(headers, 300.0) == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("x-request-timeout-ms", "1.5"),
        ("x-request-timeout-ms", ""),
        ("x-request-timeout-ms", "0"),
        ("grpc-timeout", "5"),
        ("grpc-timeout", "123456789S"),
    ],
)
def test_a_deadline_that_says_nothing_is_refused(name: str, value: str) -> None:
    with pytest.raises(InputError) as error:
        http_calls.seconds({name: value}, 1.0)
    assert error.value.field == name


@pytest.mark.parametrize(
    ("headers", "status"),
    [({"content-length": "101"}, 413), ({"content-encoding": "gzip"}, 415)],
)
def test_what_is_too_large_or_encoded_is_refused_unread(headers: dict[str, str], status: int) -> None:
    with pytest.raises(RefusedError) as error:
        http_calls.length(headers, 100)
    assert error.value.status == status


def test_a_length_that_is_told_is_believed_up_to_the_limit() -> None:
    assert http_calls.length({"content-length": "7"}, 100) == 7
    assert http_calls.length({}, 100) == 100


@pytest.mark.parametrize(
    ("kind", "strict", "lenient"),
    [
        (None, True, True),
        ("application/json", True, True),
        ("Application/JSON; charset=utf-8", True, True),
        ("application/vnd.api+json", True, True),
        ("application/x-www-form-urlencoded", False, True),
        ("text/plain;charset=UTF-8", False, True),
        ("text/html", False, False),
        ("application/octet-stream", False, False),
        ("application/jsonx", False, False),
    ],
)
def test_kinds_of_bodies(kind: str | None, strict: bool, lenient: bool) -> None:
    headers = {} if kind is None else {"content-type": kind}
    for wanted, fine in ((False, strict), (True, lenient)):
        if fine:
            http_calls.check_kind(headers, lenient=wanted)
        else:
            with pytest.raises(RefusedError) as error:
                http_calls.check_kind(headers, lenient=wanted)
            assert error.value.status == 415


async def test_a_body_is_read_to_its_end_and_no_further_than_the_limit() -> None:
    assert await http_calls.body(receive(b"ab", b"", b"c"), 3) == b"abc"
    with pytest.raises(RefusedError, match="more than 2 bytes"):
        await http_calls.body(receive(b"ab", b"c"), 2)
    with pytest.raises(GoneError):
        await http_calls.body(receive(b"ab", None), 3)


async def forever(ended: list[bool]) -> Any:
    try:
        await asyncio.Event().wait()
    finally:
        ended.append(True)


async def test_work_ends_when_its_caller_leaves() -> None:
    ended: list[bool] = []
    with pytest.raises(GoneError):
        await asyncio.wait_for(http_calls.while_there(forever(ended), receive(None), 3600), PATIENCE)
    assert ended == [True]


async def test_work_ends_at_its_deadline() -> None:
    ended: list[bool] = []
    with pytest.raises(DeadlineError):
        await asyncio.wait_for(http_calls.while_there(forever(ended), receive(), 0.01), PATIENCE)
    assert ended == [True]
    with pytest.raises(DeadlineError):
        await http_calls.within(forever(ended), -1)


async def test_work_that_is_done_tells_its_answer_or_its_error() -> None:
    async def work(answer: int | Exception) -> int:
        if isinstance(answer, Exception):
            raise answer
        return answer

    assert await http_calls.while_there(work(5), receive(), 3600) == 5
    with pytest.raises(KeyError):
        await http_calls.while_there(work(KeyError()), receive(), 3600)
