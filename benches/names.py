"""A name server of one name, as a headless Service's: every address that is ready, in one answer."""

import socket
import struct
import threading
from types import TracebackType
from typing import Final

NAME: Final = "rerankd.test"
_A, _IN, _POINTER = 1, 1, 0xC00C
_ANSWER: Final = 0x8580
"""Flags: an answer, from who owns the name, with recursion asked for and to be had."""


class Names:
    """Answers on a port of 127.0.0.1, on a thread. A context manager."""

    def __init__(self, *addresses: str) -> None:
        self.addresses = addresses
        """IPv4's, which may be set anew at any time."""
        self.asked = 0
        """How often."""
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        self.port: int = self._socket.getsockname()[1]
        self._thread = threading.Thread(target=self._run, daemon=True)

    def target(self, port: int) -> str:
        """For a client that is to ask those addresses, on that port, as it finds them here."""
        return f"dns://127.0.0.1:{self.port}/{NAME}:{port}"

    def _run(self) -> None:
        while True:
            query, sender = self._socket.recvfrom(4096)
            if not query:
                return
            self._socket.sendto(self._answer(query), sender)

    def _answer(self, query: bytes) -> bytes:
        end = query.index(b"\0", 12) + 5
        labels, (kind, _) = query[12 : end - 4], struct.unpack(">HH", query[end - 4 : end])
        known = labels == b"".join(bytes([len(each)]) + each.encode() for each in NAME.split(".")) + b"\0"
        addresses = self.addresses if known and kind == _A else ()
        self.asked += bool(addresses)
        header = query[:2] + struct.pack(">HHHHH", _ANSWER, 1, len(addresses), 0, 0)
        records = (
            struct.pack(">HHHIH", _POINTER, _A, _IN, 0, 4) + socket.inet_aton(each) for each in addresses
        )
        return header + query[12:end] + b"".join(records)

    def __enter__(self) -> "Names":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.sendto(b"", ("127.0.0.1", self.port))
        self._thread.join()
        self._socket.close()
