"""How commands ask a server: over TLS, with a token, by flags, variables and a file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from authority import Authority
from rerankd import cli
from support import CONTEXTS, QUERY, RunningServer, Serve

TOKEN = "some-token"


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@pytest.fixture
def token_file(tmp_path: Path) -> str:
    file = tmp_path / "tokens"
    file.write_text(f"# ours\n{TOKEN}  # of the tests\nanother\n")
    return str(file)


@pytest.fixture
def server(serve: Serve, authority: Authority, token_file: str) -> RunningServer:
    pair = authority.issue("server")
    return serve(
        tls_cert=pair.cert, tls_key=pair.key, tls_client_ca=authority.ca, token_file=token_file, threads=1
    )


@pytest.fixture
def candidates(tmp_path: Path) -> str:
    file = tmp_path / "candidates"
    file.write_text("\n".join(CONTEXTS))
    return str(file)


def test_flags(
    server: RunningServer,
    authority: Authority,
    token_file: str,
    candidates: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    own = authority.issue("client")
    files = ["--target-ca", authority.ca, "--target-cert", own.cert, "--target-key", own.key]
    asked = ["--target", server.target, *files, "--target-token-file", token_file, "--json"]
    assert cli.main(["rank", QUERY, candidates, *asked]) == 0
    assert len(json.loads(capsys.readouterr().out)["results"]) == len(CONTEXTS)
    assert cli.main(["models", *asked]) == 0
    assert json.loads(capsys.readouterr().out)["served"][0]["name"] == "mini-en"
    assert cli.main(["rank", QUERY, candidates, "--target", server.target, *files]) == 1
    said = capsys.readouterr().err
    assert said == "rerankd rank: this server wants a token: send it as `authorization: Bearer TOKEN`\n"


def test_variables_and_a_file(  # noqa: PLR0917 - fixtures
    server: RunningServer,
    authority: Authority,
    token_file: str,
    candidates: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    own = authority.issue("client")
    config = tmp_path / "rerankd.toml"
    config.write_text(f"target_cert = {json.dumps(own.cert)}\ntarget_key = {json.dumps(own.key)}\n")
    monkeypatch.setenv("RERANKD_TARGET_CA", authority.ca)
    monkeypatch.setenv("RERANKD_TARGET_TOKEN_FILE", token_file)
    asked = ["--target", server.target, "--config", str(config)]
    assert cli.main(["rank", QUERY, candidates, "--top-k", "1", *asked]) == 0
    assert capsys.readouterr().out.count("\n") == 1
    # Which say how to ask one, and not that one is to be asked.
    assert cli.main(["rank", QUERY, candidates, "--top-k", "1"]) == 0


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--target-ca", "/no/such"], "target_ca: can't read '/no/such': No such file or directory"),
        (["--target-cert", "x"], "target_cert: is of no use without target_key; give that file too"),
        (["--target-cert", "/no/such", "--target-key", "x"], "target_cert: can't read '/no/such'"),
        (["--target-token-file", "/no/such"], "target_token_file: can't read '/no/such'"),
    ],
)
def test_mistakes_are_told_by_the_settings_names(
    flags: list[str], says: str, candidates: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["rank", QUERY, candidates, "--target", "127.0.0.1:1", *flags]) == 2
    assert capsys.readouterr().err.startswith(f"rerankd rank: {says}")


def test_how_to_ask_without_whom_to_ask(candidates: str, capsys: pytest.CaptureFixture[str]) -> None:
    for command, flags in (
        (["rank", QUERY, candidates], ["--target-ca", "x"]),
        (["models"], ["--target-tls"]),
    ):
        assert cli.main([*command, *flags]) == 2
        said = capsys.readouterr().err
        assert said == f"rerankd {command[0]}: {flags[0]}: is for asking a server; say which with --target\n"
