"""What a client is told of how to ask: files and tokens that can't be used are refused before any call."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from authority import Authority
from rerankd import AsyncClient, Client
from rerankd.errors import InputError


@pytest.mark.parametrize("kind", [Client, AsyncClient])
def test_files_are_checked_at_once(kind: Any, tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    pair, other = authority.issue("pair"), authority.issue("other")
    for options, says in (
        ({"ca": tmp_path / "missing"}, "ca: can't read"),
        ({"ca": pair.key}, "ca: .* has no certificate in PEM"),
        ({"cert": pair.cert}, "cert: is of no use without key; give that file too"),
        ({"key": pair.key}, "key: is of no use without cert; give that file too"),
        ({"cert": pair.cert, "key": other.key}, "key: .* is not that of the certificate"),
    ):
        with pytest.raises(InputError, match=f"^{says}"):
            kind("127.0.0.1:1", **options)


@pytest.mark.parametrize("token", ["", " x", "x\n", "a\nb", "é", "\0", 3])
def test_a_token_that_cannot_be_sent_is_told_without_it(token: Any) -> None:
    for given in (token, lambda: token):
        with Client("127.0.0.1:1", token=given) as client, pytest.raises(InputError) as error:
            client.list_models()
        assert str(error.value) == "token: must be printable ASCII, with no blanks around it, and not empty"


def test_a_token_is_not_shown() -> None:
    assert "secret" not in repr(Client("127.0.0.1:1", token="secret"))


def test_a_token_is_asked_for_before_every_call() -> None:
    tokens = iter(["one", "two", "bad\n"])
    with Client("127.0.0.1:1", token=lambda: next(tokens)) as client:
        made = [client._call(None)["metadata"] for _ in range(2)]
        assert made == [(("authorization", "Bearer one"),), (("authorization", "Bearer two"),)]
        with pytest.raises(InputError):
            client.list_models()
