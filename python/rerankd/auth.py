"""Bearer tokens: those that a file lists are accepted, whatever protocol a caller speaks."""

from __future__ import annotations

import hashlib
import hmac
import logging
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from rerankd.errors import AuthError, InputError
from rerankd.watch import Watched

log = logging.getLogger(__name__)

# What RFC 6750 lets a bearer token be; # and blanks are not of it.
_TOKEN: Final = re.compile(r"[A-Za-z0-9._~+/-]+=*")
_EXEMPT: Final = "/grpc.health.v1.Health/"


def read_tokens(path: str, setting: str) -> list[str]:
    """The tokens in a file: one per line; # begins a comment, and blank lines are left out.

    Raises InputError, of `setting`, for a file that can't be read, lists no token, or has a line that can't
    be one; what the line holds is not told.
    """
    try:
        text = Path(path).read_text("utf-8-sig")
    except OSError as error:
        raise InputError(setting, f"can't read {path!r}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise InputError(setting, f"{path!r} is not UTF-8") from None
    tokens = []
    for number, line in enumerate(text.split("\n"), 1):
        token = line.partition("#")[0].strip()
        if token and not _TOKEN.fullmatch(token):
            legal = "a token is letters, digits and ._~+/- with = at its end, alone on its line"
            raise InputError(setting, f"line {number} of {path!r} is no token; {legal}")
        tokens += [token] if token else []
    if not tokens:
        raise InputError(setting, f"{path!r} lists no token; nobody could call")
    return tokens


class Tokens:
    """The tokens that are accepted: those of a file, which `refresh` reads again when it has changed.

    Raises InputError, of token_file, where the file is not fit at the start.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._watched = Watched(path)
        self._digests = self._read()

    def check(self, authorization: str | bytes | None) -> None:
        """Raises AuthError unless the `authorization` header, `Bearer TOKEN` or the token alone, has one."""
        if not authorization:
            raise AuthError("this server wants a token: send it as `authorization: Bearer TOKEN`")
        given = (
            authorization.encode("utf-8", "surrogatepass")
            if isinstance(authorization, str)
            else authorization
        )
        scheme, _, rest = given.strip().partition(b" ")
        token = rest.strip() if rest and scheme.lower() == b"bearer" else given.strip()
        digest, known = _digest(token), False
        # All of them, and by digests: the time taken tells neither which one was near, nor its length.
        for each in self._digests:
            known |= hmac.compare_digest(each, digest)
        if not known:
            raise AuthError("this token is not one that this server accepts")

    def authorize(self, method: str, metadata: Iterable[tuple[str, str | bytes]]) -> None:
        """As `check`, for a gRPC call. Whoever probes health needs no token."""
        if method.startswith(_EXEMPT):
            return
        given = [value for key, value in metadata if key == "authorization"]
        if len(given) > 1:
            raise AuthError("there is more than one `authorization`; send one")
        self.check(given[0] if given else None)

    def refresh(self) -> None:
        """Reads the file if it has changed. One that is not fit only leaves a line in the log."""
        if not self._watched.changed():
            return
        try:
            self._digests = self._read()
        except InputError as error:
            log.error("the tokens stay as they were: %s", error)

    def _read(self) -> list[bytes]:
        digests = [_digest(token.encode()) for token in read_tokens(self._path, "token_file")]
        log.info("tokens accepted: %d, from %s", len(digests), self._path)
        return digests


def _digest(token: bytes) -> bytes:
    return hashlib.sha256(token).digest()
