"""A gRPC client that costs next to nothing: one connection, one unary call at a time, frames as they are on
the wire (RFC 9113, and gRPC's "gRPC over HTTP/2"). What a call takes through it is the server's time and the
kernel's, and not that of a client's library.
"""

from __future__ import annotations

import socket
import struct
from types import TracebackType
from typing import Final

_PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA, _HEADERS, _RESET, _SETTINGS, _PING, _GOAWAY, _WINDOW = 0, 1, 3, 4, 6, 7, 8
_END_STREAM, _END_HEADERS, _ACK = 1, 4, 1
_CALL: Final = struct.Struct(">BI")


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload


def literal(name: str, value: str) -> bytes:
    """A header field never indexed and not compressed (RFC 7541, 6.2.2); both are shorter than 127 bytes."""
    assert max(len(name), len(value)) < 127
    return bytes((0, len(name))) + name.encode() + bytes((len(value),)) + value.encode()


class Lean:
    """A connection to host:port, for one method. As a context manager it closes it."""

    def __init__(self, target: str, method: str) -> None:
        host, _, port = target.rpartition(":")
        self._socket = socket.create_connection((host, int(port)))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        fields = {
            ":method": "POST",
            ":scheme": "http",
            ":path": method,
            ":authority": target,
            "te": "trailers",
            "content-type": "application/grpc",
        }
        self._headers = b"".join(literal(name, value) for name, value in fields.items())
        self._stream = -1
        self._read = b""
        # As much as all answers together may have: there is no window to mind.
        window = frame(_WINDOW, 0, 0, (2**31 - 1 - 65_535).to_bytes(4, "big"))
        self._socket.sendall(_PREFACE + frame(_SETTINGS, 0, 0, b"") + window)

    def call(self, message: bytes) -> bytes:
        """The reply's message; b"" where the call failed. The message is shorter than 16 kB, a frame's most.

        Raises ConnectionError where the server goes.
        """
        self._stream += 2
        body = _CALL.pack(0, len(message)) + message
        self._socket.sendall(
            frame(_HEADERS, _END_HEADERS, self._stream, self._headers)
            + frame(_DATA, _END_STREAM, self._stream, body)
        )
        reply = b""
        while True:
            kind, flags, stream, payload = self._next()
            if kind == _PING and not flags & _ACK:
                self._socket.sendall(frame(_PING, _ACK, 0, payload))
            elif kind == _SETTINGS and not flags & _ACK:
                self._socket.sendall(frame(_SETTINGS, _ACK, 0, b""))
            elif kind == _GOAWAY:
                raise ConnectionError(f"the server closes the connection: {payload[8:].decode()}")
            elif stream == self._stream:
                if kind == _DATA:
                    reply += payload
                if kind == _RESET or (flags & _END_STREAM and kind in (_DATA, _HEADERS)):
                    return reply[_CALL.size :]

    def _next(self) -> tuple[int, int, int, bytes]:
        head = self._take(9)
        payload = self._take(int.from_bytes(head[:3], "big"))
        return head[3], head[4], int.from_bytes(head[5:], "big"), payload

    def _take(self, size: int) -> bytes:
        while len(self._read) < size:
            more = self._socket.recv(1 << 16)
            if not more:
                raise ConnectionError("the server is gone")
            self._read += more
        taken, self._read = self._read[:size], self._read[size:]
        return taken

    def __enter__(self) -> Lean:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()
