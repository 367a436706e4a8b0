"""Certificates for the tests, by an authority that is made on the spot."""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from pathlib import Path

import trustme


@dataclass(frozen=True)
class Files:
    """A certificate and its key, as a server's operator has them: in files."""

    cert: str
    key: str

    @property
    def chain(self) -> bytes:
        return Path(self.cert).read_bytes()

    def take(self, other: Files) -> None:
        """Puts another certificate in this one's place."""
        for mine, theirs in ((self.key, other.key), (self.cert, other.cert)):
            Path(mine).write_bytes(Path(theirs).read_bytes())


class Authority:
    """Vouches for 127.0.0.1, and for clients. `ca` is the file of its own certificate."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        directory.mkdir(exist_ok=True)
        self._ca = trustme.CA()
        self.ca = str(directory / "ca.pem")
        self._ca.cert_pem.write_to_path(self.ca)

    def issue(self, name: str, not_after: datetime.datetime | None = None) -> Files:
        leaf = self._ca.issue_cert("127.0.0.1", not_after=not_after)
        files = Files(str(self._directory / f"{name}.pem"), str(self._directory / f"{name}.key"))
        Path(files.cert).write_bytes(b"".join(blob.bytes() for blob in leaf.cert_chain_pems))
        leaf.private_key_pem.write_to_path(files.key)
        return files
