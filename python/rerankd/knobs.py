"""What a setting can be: each kind says what is legal, reads it strictly, and writes it back."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

_T = TypeVar("_T")
_UNITS: Final = {"": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}
# What gRPC's options and the engine's boundary can hold.
_LARGEST: Final = (1 << 31) - 1


@dataclass(frozen=True)
class Kind:
    """How a value is written. `parse` takes text, TOML's own type, or the value itself; for anything else it
    raises ValueError. `show` writes a value as `parse` reads it."""

    metavar: str
    legal: str
    parse: Callable[[object], Any]
    show: Callable[[Any], str] = str


@dataclass(frozen=True)
class Knob:
    """A setting as its operator meets it."""

    kind: Kind
    group: str
    about: str


def integer(low: int, high: int = _LARGEST) -> Kind:
    def parse(raw: object) -> int:
        if isinstance(raw, bool) or not isinstance(raw, (int, str)):
            raise ValueError
        value = int(raw)
        if not low <= value <= high:
            raise ValueError
        return value

    return Kind("N", f"an integer from {low} to {high}", parse)


def or_auto(kind: Kind) -> Kind:
    """`auto` is how a file or a flag says None: leave it to the checkpoint, or to the machine."""
    return Kind(
        kind.metavar,
        f"{kind.legal}, or auto",
        lambda raw: None if raw is None or raw == "auto" else kind.parse(raw),
        lambda value: "auto" if value is None else kind.show(value),
    )


def size() -> Kind:
    def parse(raw: object) -> int:
        match = re.fullmatch(r"([0-9]+) ?((?:[KMG]iB)?)", str(raw))
        value = int(match[1]) * _UNITS[match[2]] if match else 0
        if not 1 <= value <= _LARGEST:
            raise ValueError
        return value

    def show(value: int) -> str:
        unit = next(unit for unit in reversed(_UNITS) if value % _UNITS[unit] == 0)
        return f"{value // _UNITS[unit]}{unit}"

    return Kind("BYTES", "a number of bytes from 1 to 2 GiB less one, as 65536, 64KiB or 16MiB", parse, show)


def seconds(low: float = 0) -> Kind:
    def parse(raw: object) -> float:
        if isinstance(raw, bool) or not isinstance(raw, (int, float, str)):
            raise ValueError
        value = float(raw)
        if not (math.isfinite(value) and low <= value <= 86400):
            raise ValueError
        return value

    return Kind(
        "SECONDS",
        f"a number of seconds from {low:g} to 86400",
        parse,
        lambda value: repr(value).removesuffix(".0"),
    )


def choice(*names: str, pattern: str = "", legal: str = "") -> Kind:
    def parse(raw: object) -> str:
        if isinstance(raw, str) and (raw in names or (pattern and re.fullmatch(pattern, raw))):
            return raw
        raise ValueError

    return Kind("NAME", legal or "one of " + ", ".join(names), parse)


def address(optional: bool = False) -> Kind:
    def parse(raw: object) -> str:
        if optional and raw == "":
            return ""
        text = raw if isinstance(raw, str) else ""
        match = re.fullmatch(r"(\[[0-9A-Fa-f:.%]+\]|[^\s:\[\]]+):([0-9]{1,5})", text)
        if match is None or int(match[2]) > 65535:
            raise ValueError
        return match[0]

    legal = "HOST:PORT with a port of 0 to 65535 ([::]:50051 for IPv6)"
    return Kind("HOST:PORT", legal + (', or "" for none' if optional else ""), parse)


def file() -> Kind:
    """A path; whether the file is there, and fit, is for whoever reads it to say."""

    def parse(raw: object) -> str:
        if not isinstance(raw, str) or "\0" in raw or raw != raw.strip():
            raise ValueError
        return raw

    return Kind("FILE", 'a file\'s path, or "" for none', parse)


def endpoint() -> Kind:
    def parse(raw: object) -> str:
        if raw == "":
            return ""
        scheme, _, rest = raw.partition("://") if isinstance(raw, str) else ("", "", "")
        if scheme not in ("http", "https"):
            raise ValueError
        return f"{scheme}://{address().parse(rest)}"

    return Kind("URL", 'http://HOST:PORT, https://HOST:PORT with TLS, or "" for none', parse)


def fraction() -> Kind:
    def parse(raw: object) -> float:
        if isinstance(raw, bool) or not isinstance(raw, (int, float, str)):
            raise ValueError
        value = float(raw)
        if not 0 <= value <= 1:
            raise ValueError
        return value

    return Kind("FRACTION", "a number from 0 to 1", parse, lambda value: repr(value).removesuffix(".0"))


def switch() -> Kind:
    def parse(raw: object) -> bool:
        if isinstance(raw, bool):
            return raw
        if raw not in ("true", "1", "false", "0"):
            raise ValueError
        return raw in ("true", "1")

    return Kind("", "true or false", parse, lambda value: "true" if value else "false")


def names() -> Kind:
    def parse(raw: object) -> tuple[str, ...]:
        # A variable holds several names with commas between them; a flag is repeated; TOML has its own lists.
        names = raw.split(",") if isinstance(raw, str) else raw
        if not isinstance(names, (list, tuple)):
            raise ValueError
        if not all(isinstance(name, str) and name.strip() for name in names):
            raise ValueError
        return tuple(name.strip() for name in names)

    return Kind("MODEL", "names, none of them empty", parse, ",".join)


def aliases() -> Kind:
    """Names for models, each as NAME=MODEL, lists as `names` has them."""
    each = names()

    def parse(raw: object) -> tuple[str, ...]:
        parsed: tuple[str, ...] = each.parse(raw)
        if not all(re.fullmatch(r"[^\s=]+=.*\S", alias) for alias in parsed):
            raise ValueError
        return parsed

    return Kind("NAME=MODEL", "names of models, as NAME=MODEL", parse, ",".join)


def knob(default: _T, kind: Kind, group: str, about: str) -> _T:
    return field(default=default, metadata={"knob": Knob(kind, group, about)})
