"""Certificates and keys in files: what is taken, and the sentence for what is not."""

from __future__ import annotations

import datetime
from pathlib import Path

import pytest
from authority import Authority, Files
from cryptography.hazmat.primitives import serialization
from rerankd import pem
from rerankd.errors import InputError

NAMES = ("tls_cert", "tls_key")
NOW = datetime.datetime.now(datetime.timezone.utc)


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@pytest.fixture
def pair(authority: Authority) -> Files:
    return authority.issue("server")


def refused(pair: Files) -> InputError:
    with pytest.raises(InputError) as error:
        pem.read_server_pair(pair.cert, pair.key, NAMES)
    return error.value


def test_a_pair_is_read_as_it_is(pair: Files) -> None:
    read, until = pem.read_server_pair(pair.cert, pair.key, NAMES)
    assert read == pem.read_pair(pair.cert, pair.key, NAMES)
    assert read.chain == pair.chain
    assert read.key == Path(pair.key).read_bytes()
    assert until.endswith(" GMT")


def test_a_key_is_not_shown(pair: Files) -> None:
    assert "PRIVATE" not in repr(pem.read_pair(pair.cert, pair.key, NAMES))


def test_text_between_the_certificates_is_let_be(pair: Files, authority: Authority) -> None:
    chain = "Straße 1\n".encode() + pair.chain + Path(authority.ca).read_bytes()
    Path(pair.cert).write_bytes(chain)
    assert pem.read_server_pair(pair.cert, pair.key, NAMES)[0].chain == chain
    assert pem.read_authorities(pair.cert, "tls_client_ca") == chain


@pytest.mark.parametrize("missing", [0, 1])
def test_a_file_that_is_not_there(pair: Files, missing: int) -> None:
    Path((pair.cert, pair.key)[missing]).unlink()
    error = refused(pair)
    assert error.field == NAMES[missing]
    assert error.message.startswith("can't read '")
    assert error.message.endswith("': No such file or directory")


def test_anothers_key(pair: Files, authority: Authority) -> None:
    other = authority.issue("other")
    error = refused(Files(pair.cert, other.key))
    assert error.field == "tls_key"
    assert "is not that of the certificate in" in error.message


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "has no certificate in PEM"),
        (b"\xff\x00", "has no certificate in PEM"),
        (b"-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n", "has a broken certificate"),
    ],
)
def test_what_is_no_certificate(pair: Files, content: bytes, says: str) -> None:
    Path(pair.cert).write_bytes(content)
    error = refused(pair)
    assert error.field == "tls_cert"
    assert says in error.message
    with pytest.raises(InputError, match=f"^tls_client_ca: .*{says}"):
        pem.read_authorities(pair.cert, "tls_client_ca")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "has no private key in PEM"),
        (b"-----BEGIN PRIVATE KEY-----\nMIIB\n-----END PRIVATE KEY-----\n", "can't be used: "),
    ],
)
def test_what_is_no_key(pair: Files, content: bytes, says: str) -> None:
    Path(pair.key).write_bytes(content)
    error = refused(pair)
    assert error.field == "tls_key"
    assert says in error.message


def test_files_that_are_given_the_wrong_way_round(pair: Files) -> None:
    assert "has no certificate in PEM" in refused(Files(pair.key, pair.cert)).message


@pytest.mark.parametrize(
    "style", [serialization.PrivateFormat.PKCS8, serialization.PrivateFormat.TraditionalOpenSSL]
)
def test_an_encrypted_key(pair: Files, style: serialization.PrivateFormat) -> None:
    file = Path(pair.key)
    key = serialization.load_pem_private_key(file.read_bytes(), None)
    locked = serialization.BestAvailableEncryption(b"password")
    file.write_bytes(key.private_bytes(serialization.Encoding.PEM, style, locked))
    error = refused(pair)
    assert error.field == "tls_key"
    assert "is encrypted" in error.message


def test_a_certificate_whose_time_is_over(authority: Authority) -> None:
    old = authority.issue("old", not_after=NOW - datetime.timedelta(hours=1))
    error = refused(old)
    assert (error.field, error.message) == ("tls_cert", f"the certificate in {old.cert!r} has expired")
    # A client's is for its server to judge.
    assert pem.read_pair(old.cert, old.key, ("cert", "key")).chain == old.chain
