"""A request's other end: its body, read within bounds, its deadline, and whether anybody still waits."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Mapping
from typing import Final, TypeVar

from starlette.types import Receive

from rerankd.errors import DeadlineError, InputError
from rerankd.http_errors import RefusedError

_T = TypeVar("_T")

TIMEOUT_MS: Final = "x-request-timeout-ms"
GRPC_TIMEOUT: Final = "grpc-timeout"
_UNITS: Final = {"H": 3600.0, "M": 60.0, "S": 1.0, "m": 1e-3, "u": 1e-6, "n": 1e-9}
_JSON: Final = re.compile(r"\s*(application/([\w.+-]+\+)?json|text/json)\s*(;.*)?", re.IGNORECASE)
# What curl -d and a browser's fetch say of a string that nobody told them the kind of.
_UNTOLD: Final = re.compile(r"\s*(application/x-www-form-urlencoded|text/plain)\s*(;.*)?", re.IGNORECASE)


class GoneError(Exception):
    """The caller has left: nobody is to be told anything."""


def seconds(headers: Mapping[str, str], most: float) -> float:
    """How long a request may take, by its headers and at most. Raises InputError that names a bad one."""
    left = most
    told = headers.get(TIMEOUT_MS)
    if told is not None:
        if not re.fullmatch(r"[1-9][0-9]{0,9}", told):
            raise InputError(TIMEOUT_MS, "must be a number of milliseconds, at least 1, as 500")
        left = min(left, int(told) / 1000)
    told = headers.get(GRPC_TIMEOUT)
    if told is not None:
        match = re.fullmatch(r"([0-9]{1,8})([HMSmun])", told)
        if match is None:
            raise InputError(
                GRPC_TIMEOUT, "must be a number of at most 8 digits and a unit of HMSmun, as 500m"
            )
        left = min(left, int(match[1]) * _UNITS[match[2]])
    return left


def length(headers: Mapping[str, str], most: int) -> int:
    """The most bytes that the body may have: what its header says, else the limit.

    Raises RefusedError: 413 where that is over the limit, 415 for what is not JSON as it is.
    """
    encoding = headers.get("content-encoding", "identity")
    if encoding.lower() != "identity":
        raise RefusedError(415, "a body with a content-encoding is not read; send it as it is")
    told = headers.get("content-length")
    if told is None or not told.isdecimal():
        return most
    if int(told) > most:
        raise _too_large(most)
    return int(told)


def check_kind(headers: Mapping[str, str], *, lenient: bool = False) -> None:
    """Raises RefusedError, 415, for a body that says that it is no JSON.

    lenient: what curl says by itself is no such word.
    """
    kind = headers.get("content-type")
    if kind is None or _JSON.fullmatch(kind) or (lenient and _UNTOLD.fullmatch(kind)):
        return
    raise RefusedError(415, "the body must be JSON; send it with content-type: application/json")


async def body(receive: Receive, most: int) -> bytes:
    """Reads a request's body. Raises RefusedError, 413, past the limit, and GoneError."""
    parts: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise GoneError
        part = message.get("body", b"")
        size += len(part)
        if size > most:
            raise _too_large(most)
        parts.append(part)
        if not message.get("more_body", False):
            return b"".join(parts)


async def within(work: Awaitable[_T], left: float) -> _T:
    """What the work gives, if it is there in so many seconds. Raises DeadlineError."""
    try:
        return await asyncio.wait_for(work, max(0.0, left))
    except asyncio.TimeoutError:
        raise DeadlineError("the deadline passed") from None


async def while_there(work: Awaitable[_T], receive: Receive, left: float) -> _T:
    """What the work gives, if the caller waits so long: cancels it when the caller leaves, or time is up.

    To be called when the body was read. left: seconds. Raises GoneError, DeadlineError.
    """
    doing = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(_left(receive))
    both = (doing, leaving)
    try:
        await asyncio.wait(both, timeout=max(0.0, left), return_when=asyncio.FIRST_COMPLETED)
        if doing.done():
            return doing.result()
        if leaving.done():
            raise GoneError
        raise DeadlineError("the deadline passed before the answer was ready")
    finally:
        for each in both:
            each.cancel()
        await asyncio.gather(*both, return_exceptions=True)


async def _left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _too_large(most: int) -> RefusedError:
    return RefusedError(413, f"the body has more than {most} bytes, the most that is read")
