"""A bench's own server: how it is started, and that nothing is left of it."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import pytest
from rerankd import bench_server, settings
from rerankd.bench_load import Measured
from rerankd.errors import InputError, RerankdError


def test_it_is_told_what_the_command_line_said_and_no_more() -> None:
    words = bench_server.command(
        {"model": ["a", "b"], "threads": "2", "emulate": False, "config": "x.toml", "seed": "5", "json": None}
    )
    assert words[2:4] == ["rerankd", "serve"]
    assert words[-5:] == ["--config=x.toml", "--model=a", "--model=b", "--threads=2", "--no-emulate"]
    assert "--emulate" in bench_server.command({"emulate": True})
    assert not [word for word in words if "seed" in word or "json" in word]


def test_it_listens_for_grpc_alone_whatever_ports_there_are() -> None:
    words = bench_server.command({})
    for name, knob in settings.declared().items():
        if knob.kind.metavar == "HOST:PORT":
            assert f"{settings.flag(name)}={'127.0.0.1:0' if name == 'grpc' else ''}" in words
            assert knob.kind.parse("" if name != "grpc" else "127.0.0.1:0") is not None


def test_it_speaks_plaintext_to_anybody_whatever_the_settings_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tmp_path / "rerankd.toml"
    config.write_text('tls_cert = "/no/such"\ntls_key = "/no/such"\ntls_client_ca = "/no/such"\n')
    monkeypatch.setenv("RERANKD_TOKEN_FILE", "/no/such")
    with bench_server.running({"config": str(config), "threads": "1"}) as (address, _):
        assert len(asyncio.run(Measured(address).served())) == 1


def test_it_serves_and_is_gone_in_the_end() -> None:
    with bench_server.running({"threads": "1", "max_tokens": "64"}) as (address, process):
        (model,) = asyncio.run(Measured(address).served())
        assert (model.name, model.max_tokens) == ("mini-en", 64)
        # Ctrl-C on the bench's terminal is for its whole process group, and not for the server.
        assert os.getpgid(process) != os.getpgid(0)
    with pytest.raises(ProcessLookupError):
        os.kill(process, 0)


def test_it_is_gone_where_the_bench_fails_and_where_it_was_killed() -> None:
    with pytest.raises(KeyError), bench_server.running({}) as (_, process):
        raise KeyError
    with pytest.raises(ProcessLookupError):
        os.kill(process, 0)
    with bench_server.running({}) as (_, process):
        os.kill(process, signal.SIGKILL)


def test_what_it_can_not_be_is_told_in_its_own_words() -> None:
    with (
        pytest.raises(
            InputError, match=r"^the bench's own server did not start: threads: '0' \(from --threads"
        ),
        bench_server.running({"threads": "0"}),
    ):
        pass
    with (
        pytest.raises(
            RerankdError, match=r"^the bench's own server did not start: 'no-such-model' is neither"
        ),
        bench_server.running({"model": ["no-such-model"]}),
    ):
        pass
