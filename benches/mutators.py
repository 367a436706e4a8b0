"""Messages made wrong, as protobuf has them on the wire.

Each mutator takes the randomness it may use, so that the same state of it makes the same bytes. Some know how
a message is built, and give one whose other parts are whole, so that what is wrong is met deep inside; the
others don't care.
"""

import random
from collections.abc import Callable
from typing import TypeAlias

Field: TypeAlias = "tuple[int, int, bytes]"
"""Its number, its wire type, and what it holds: a varint, 4 or 8 bytes, or what a length tells of."""
Edit: TypeAlias = "Callable[[random.Random, Field], bytes]"
Mutator: TypeAlias = "Callable[[random.Random, bytes], bytes]"

VARINT, FIXED64, LENGTH, GROUP, END_GROUP, FIXED32 = range(6)
# What UTF-8 never is: a byte that begins nothing, a sequence cut short, a surrogate, an overlong slash, a
# code point past the last.
NOT_UTF8 = (b"\xff", b"\xc3", b"\xed\xa0\x80", b"\xc0\xaf", b"\xf4\x90\x80\x80")
# Where parsers' arithmetic ends.
NUMBERS = (0, 1, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**63 - 1, 2**63, 2**64 - 1)
LENGTHS = (2**14, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**63 - 1, 2**64 - 1)
DEEP = 300


def varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def encode(number: int, kind: int, held: bytes) -> bytes:
    """A field."""
    length = varint(len(held)) if kind == LENGTH else b""
    return varint(number << 3 | kind) + length + held


def decode(message: bytes) -> list[Field]:
    """Its fields, in order; none where it is not a message."""
    fields: list[Field] = []
    at = 0
    try:
        while at < len(message):
            key, at = _varint_at(message, at)
            number, kind = key >> 3, key & 7
            if kind == LENGTH:
                size, begin = _varint_at(message, at)
                end = begin + size
            elif kind == VARINT:
                begin, end = at, _varint_at(message, at)[1]
            else:
                begin, end = at, at + {FIXED64: 8, FIXED32: 4}[kind]
            if number == 0 or end > len(message):
                return []
            fields.append((number, kind, message[begin:end]))
            at = end
    except (IndexError, KeyError):
        return []
    return fields


def _varint_at(message: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7


# ---- what knows how a message is built --------------------------------------------------------------------


def _within(edit: Edit) -> Mutator:
    """Edits one field of the message, or of a message in it, and mends the lengths around it."""

    def mutate(rng: random.Random, message: bytes) -> bytes:
        fields = decode(message)
        if not fields:
            return message + edit(rng, (rng.randint(1, 12), LENGTH, message))
        at = rng.randrange(len(fields))
        number, kind, held = fields[at]
        if kind == LENGTH and rng.random() < 0.6 and decode(held):
            changed = encode(number, kind, mutate(rng, held))
        else:
            changed = edit(rng, fields[at])
        return b"".join(changed if i == at else encode(*field) for i, field in enumerate(fields))

    return mutate


def _repeat(rng: random.Random, field: Field) -> bytes:
    return encode(*field) * rng.choice((2, 2, 3, 20))


def _leave_out(rng: random.Random, field: Field) -> bytes:
    return b""


def _huge_length(rng: random.Random, field: Field) -> bytes:
    return varint(field[0] << 3 | LENGTH) + varint(rng.choice(LENGTHS)) + field[2]


def _not_utf8(rng: random.Random, field: Field) -> bytes:
    number, _, held = field
    at = rng.randint(0, len(held))
    return encode(number, LENGTH, held[:at] + rng.choice(NOT_UTF8) + held[at:])


def _number(rng: random.Random, field: Field) -> bytes:
    """Any value of an enumeration or a number, negative ones too."""
    value = rng.choice((rng.randint(0, 10), rng.choice(NUMBERS), rng.getrandbits(64)))
    return encode(field[0], VARINT, varint(value))


def _other_type(rng: random.Random, field: Field) -> bytes:
    return varint(field[0] << 3 | rng.randrange(8)) + field[2]


def _other_number(rng: random.Random, field: Field) -> bytes:
    number = rng.choice((0, rng.randint(1, 12), rng.randint(13, 2**29 - 1), 2**29 - 1, 19_000))
    return encode(number, field[1], field[2])


def _unknown_beside(rng: random.Random, field: Field) -> bytes:
    return encode(*field) + encode(rng.randint(100, 2**29 - 1), LENGTH, rng.randbytes(rng.randint(0, 30)))


def _deep(rng: random.Random, field: Field) -> bytes:
    """The field within itself, deeper than parsers go; or groups, which none of ours has."""
    number, depth = field[0], rng.randint(2, DEEP)
    if rng.random() < 0.5:
        closed = depth if rng.random() < 0.5 else 0
        return varint(number << 3 | GROUP) * depth + varint(number << 3 | END_GROUP) * closed
    held = b""
    for _ in range(depth):
        held = encode(number, LENGTH, held)
    return held


# ---- what does not ----------------------------------------------------------------------------------------


def flip_bits(rng: random.Random, message: bytes) -> bytes:
    changed = bytearray(message)
    for _ in range(rng.randint(1, 8) if changed else 0):
        changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def truncate(rng: random.Random, message: bytes) -> bytes:
    return message[: rng.randint(0, len(message))]


def splice(rng: random.Random, message: bytes) -> bytes:
    """A few bytes put in, or in the place of others."""
    at = rng.randint(0, len(message))
    return message[:at] + rng.randbytes(rng.randint(0, 3)) + message[at + rng.randint(0, 3) :]


def garbage(rng: random.Random, message: bytes) -> bytes:
    return rng.randbytes(rng.randint(0, 60))


MUTATORS: dict[str, Mutator] = {
    "bits flipped": flip_bits,
    "cut off": truncate,
    "bytes put in": splice,
    "no message at all": garbage,
    "a field repeated": _within(_repeat),
    "a field left out": _within(_leave_out),
    "a length past the end": _within(_huge_length),
    "not UTF-8": _within(_not_utf8),
    "another number": _within(_number),
    "another wire type": _within(_other_type),
    "another field": _within(_other_number),
    "an unknown field": _within(_unknown_beside),
    "deeper than it should be": _within(_deep),
}
_EACH = tuple(MUTATORS.values())


def mutate(rng: random.Random, message: bytes) -> bytes:
    """The message, with one to three things wrong with it."""
    for _ in range(rng.choice((1, 1, 2, 3))):
        message = rng.choice(_EACH)(rng, message)
    return message
