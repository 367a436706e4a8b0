"""Certificates and keys in PEM, read and checked before anything relies on them."""

from __future__ import annotations

import re
import ssl
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from rerankd.errors import InputError

_CERTIFICATE: Final = re.compile(r"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)
# OpenSSL's numbers for a certificate whose time is not now.
_UNTIMELY: Final = {9: "is not valid yet", 10: "has expired"}


@dataclass(frozen=True)
class Pair:
    """A certificate, with those that vouch for it, and its private key; both PEM."""

    chain: bytes
    key: bytes = field(repr=False)


def read_pair(cert: str, key: str, names: tuple[str, str]) -> Pair:
    """Reads both files, and checks that they belong together.

    names: of the two settings or arguments, for InputError, which is raised where a file can't be read, is
    not PEM, or is encrypted, and where the key is another certificate's.
    """
    pair = Pair(_read(cert, names[0]), _read(key, names[1]))
    _loaded(cert, key, pair, names)
    return pair


def read_server_pair(cert: str, key: str, names: tuple[str, str]) -> tuple[Pair, str]:
    """As read_pair, and InputError too where no client could accept the certificate: it has expired, is not
    valid yet, or is not for servers. Gives the end of its validity as well, as "Jun  1 12:00:00 2027 GMT".
    """
    pair = read_pair(cert, key, names)
    context = _loaded(cert, key, pair, names)
    try:
        told = _handshake(context, _text(pair.chain))
    except ssl.SSLCertVerificationError as error:
        why = _UNTIMELY.get(error.verify_code, f"can't be a server's: {error.verify_message}")
        raise InputError(names[0], f"the certificate in {cert!r} {why}") from None
    except ssl.SSLError as error:
        raise InputError(names[0], f"{cert!r} can't serve: {_reason(error)}") from None
    return pair, str(told["notAfter"])


def server_context(
    pair: Pair, cert: str, key: str, names: tuple[str, str], authorities: bytes | None
) -> ssl.SSLContext:
    """For Python's own servers, which speak HTTP/1.1: the pair that was read from these files.

    authorities: in PEM; a client needs a certificate of theirs. None: it needs none. Raises InputError where
    the files hold another pair by now.
    """
    context = _loaded(cert, key, pair, names)
    context.set_alpn_protocols(["http/1.1"])
    if authorities is not None:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(cadata="\n".join(_CERTIFICATE.findall(_text(authorities))))
    return context


def read_authorities(path: str, name: str) -> bytes:
    """Certificates to trust. Raises InputError, of `name`, where the file has none in PEM."""
    data = _read(path, name)
    _trust(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), data, path, name)
    return data


def _read(path: str, name: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise InputError(name, f"can't read {path!r}: {error.strerror}") from None


def _text(data: bytes) -> str:
    return data.decode("ascii", "replace")


def _trust(context: ssl.SSLContext, data: bytes, path: str, name: str) -> None:
    # Alone, without the comments that may stand between them, which need not be ASCII.
    certificates = "\n".join(_CERTIFICATE.findall(_text(data)))
    if not certificates:
        raise InputError(name, f"{path!r} has no certificate in PEM")
    try:
        context.load_verify_locations(cadata=certificates)
    except ssl.SSLError as error:
        raise InputError(name, f"{path!r} has a broken certificate: {_reason(error)}") from None


def _loaded(cert: str, key: str, pair: Pair, names: tuple[str, str]) -> ssl.SSLContext:
    """A server's context with the pair."""
    _trust(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), pair.chain, cert, names[0])
    if b"PRIVATE KEY-----" not in pair.key:
        raise InputError(names[1], f"{key!r} has no private key in PEM")
    if b"ENCRYPTED" in pair.key:
        raise InputError(
            names[1], f"the key in {key!r} is encrypted; give it decrypted, as `openssl pkey` does"
        )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        # It takes files alone; a password is never asked for, even if they change meanwhile.
        context.load_cert_chain(cert, key, password=lambda: "")
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise InputError(
                names[1], f"the key in {key!r} is not that of the certificate in {cert!r}"
            ) from None
        raise InputError(names[1], f"{cert!r} and {key!r} can't be used: {_reason(error)}") from None
    if (_read(cert, names[0]), _read(key, names[1])) != (pair.chain, pair.key):
        raise InputError(names[0], f"{cert!r} or {key!r} changed while they were read; try again")
    return context


def _handshake(context: ssl.SSLContext, chain: str) -> dict[str, Any]:
    """What a client that trusts this certificate learns of it, in a handshake in memory."""
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False  # who it is for is for the clients to know
    client.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    client.load_verify_locations(cadata=_CERTIFICATE.findall(chain)[0])
    there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    asking, answering = client.wrap_bio(back, there), context.wrap_bio(there, back, server_side=True)
    while not _advanced(asking):
        _advanced(answering)
        if not back.pending:
            raise ssl.SSLError("the handshake does not get on")
    return dict(asking.getpeercert() or {})


def _advanced(end: ssl.SSLObject) -> bool:
    """Does what can be done of a handshake; says whether it is done."""
    try:
        end.do_handshake()
    except ssl.SSLWantReadError:
        return False
    return True


def _reason(error: ssl.SSLError) -> str:
    """ "NO_START_LINE" as "no start line"; OpenSSL's names say little more than that."""
    return (error.reason or str(error)).replace("_", " ").lower()
