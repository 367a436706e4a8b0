"""`rerankd serve`, a real process: its settings, its log, signals, and the exit codes."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import grpc
import pytest
from authority import Authority
from grpc_health.v1 import health_pb2
from rerankd import settings
from rerankd.service import SERVICE
from rerankd.v1 import rerank_pb2 as pb
from rerankd.v1 import rerank_pb2_grpc
from support import LONG, PATIENCE, Channel, ask, refused_sync

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # type: ignore[import-not-found, unused-ignore]

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


class Process:
    """`rerankd serve`, its log read as it comes."""

    def __init__(self, *flags: str) -> None:
        command = [sys.executable, "-m", "rerankd", "serve", "--grpc", "127.0.0.1:0"]
        command += ["--health", "127.0.0.1:0", "--metrics", "127.0.0.1:0", "--http", "127.0.0.1:0"]
        command += ["--threads", "1", "--drain-seconds", "0", *flags]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        self.lines: list[str] = []
        self._news = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            with self._news:
                self.lines.append(line)
                self._news.notify_all()

    def wait_for(self, pattern: str) -> re.Match[str]:
        def found() -> re.Match[str] | None:
            return next((match for line in self.lines if (match := re.search(pattern, line))), None)

        with self._news:
            match = self._news.wait_for(found, PATIENCE)
        assert match is not None, "".join(self.lines)
        return match

    def port(self, what: str) -> int:
        return int(self.wait_for(rf"serving {what} on 127\.0\.0\.1:(\d+)")[1])

    def end(self) -> int:
        code = self.process.wait(PATIENCE)
        self._reader.join(PATIENCE)
        return code


@pytest.fixture
def process(request: pytest.FixtureRequest) -> Iterator[Process]:
    process = Process(*getattr(request, "param", ()))
    yield process
    process.process.kill()
    process.process.wait()


async def test_sigterm_finishes_what_is_begun_and_exits_with_0(process: Process) -> None:
    channel = Channel(process.port("gRPC"))
    probe = Channel(process.port("health"))
    assert await probe.check("readiness") == SERVING
    process.wait_for("no model was asked for: serving mini-en")
    process.wait_for(r"loaded mini-en \(bert, revision \w+\) in .* s: cpu, \w+, [\w, -]+ kernels, 1 threads")
    watch = probe.watch("readiness")
    assert (await anext(watch)).status == SERVING
    stream = channel.rerank.RerankStream()
    await stream.write(pb.RerankStreamRequest(start=ask(contexts=LONG[:4])))
    await stream.read()
    process.process.send_signal(signal.SIGTERM)
    assert (await anext(watch)).status == NOT_SERVING
    await stream.done_writing()
    messages = []
    while isinstance(message := await stream.read(), pb.RerankStreamResponse):
        messages.append(message)
    assert len(messages[-1].ranking.results) == 4
    assert await asyncio.to_thread(process.end) == 0
    assert not [line for line in process.lines if LONG[0][:20] in line], "a text in the log"
    assert "Traceback" not in "".join(process.lines)
    await channel.channel.close()
    await probe.channel.close()


@pytest.mark.parametrize("process", [("--drain-seconds", "3600", "--log-format", "json")], indirect=True)
async def test_a_second_signal_stops_at_once(process: Process) -> None:
    channel = Channel(process.port("gRPC"))
    assert len((await channel.rerank.Rerank(ask())).results) == 4
    process.process.send_signal(signal.SIGINT)
    await asyncio.to_thread(process.wait_for, "SIGINT: stopping")
    assert len((await channel.rerank.Rerank(ask())).results) == 4
    process.process.send_signal(signal.SIGTERM)
    assert await asyncio.to_thread(process.end) == 1
    entries = [json.loads(line) for line in process.lines if line.startswith("{")]
    assert len(entries) == len(process.lines)
    assert all({"time", "level", "logger", "message"} <= entry.keys() for entry in entries)
    assert "SIGTERM: stopping at once" in [entry["message"] for entry in entries]
    await channel.channel.close()


@pytest.mark.parametrize("process", [("--grace-seconds", "0.05")], indirect=True)
async def test_calls_that_the_end_of_the_grace_cuts_short_are_told_by_1(process: Process) -> None:
    channel = Channel(process.port("gRPC"))
    call = channel.rerank.RerankBatch()  # open, and nobody means to close it
    await call.write(pb.RerankBatchRequest(request_id="id", request=ask()))
    assert await call.read() is not grpc.aio.EOF
    process.process.send_signal(signal.SIGTERM)
    assert await asyncio.to_thread(process.end) == 1
    assert "cancelling 1 calls still in progress" in "".join(process.lines)
    await channel.channel.close()


async def test_what_is_idle_is_drained_by_0_whatever_the_grace(process: Process) -> None:
    channel = Channel(process.port("gRPC"))
    watch = channel.watch("")  # open to the end, and no reason to wait
    assert (await anext(watch)).status == SERVING
    process.process.send_signal(signal.SIGTERM)
    assert await asyncio.to_thread(process.end) == 0
    await channel.channel.close()


def test_handshakes_that_fail_leave_the_log_as_it_is(tmp_path: Path) -> None:
    pair = Authority(tmp_path).issue("server")
    process = Process("--tls-cert", pair.cert, "--tls-key", pair.key, "--log-format", "json")
    try:
        port = process.port("gRPC")
        for _ in range(3):
            with socket.create_connection(("127.0.0.1", port), PATIENCE) as plain:
                context = ssl.create_default_context()  # which does not know the authority
                with pytest.raises(ssl.SSLCertVerificationError):
                    context.wrap_socket(plain, server_hostname="127.0.0.1")
        process.process.send_signal(signal.SIGTERM)
        assert process.end() == 0
    finally:
        process.process.kill()
        process.process.wait()
    assert all(line.startswith("{") for line in process.lines), process.lines


@pytest.mark.parametrize("form", ["text", "json"])
def test_neither_a_token_nor_a_text_is_ever_logged(tmp_path: Path, form: str) -> None:
    tokens = tmp_path / "tokens"
    tokens.write_text("accepted-secret\n")
    process = Process(
        "--token-file", str(tokens), "--log-level", "debug", "--log-format", form, "--reflection"
    )
    try:
        with grpc.insecure_channel(f"127.0.0.1:{process.port('gRPC')}") as channel:
            stub = rerank_pb2_grpc.RerankServiceStub(channel)
            good: tuple[tuple[str, str | bytes], ...] = (("authorization", "Bearer accepted-secret"),)
            bad: tuple[tuple[str, str | bytes], ...] = (("authorization", "Bearer refused-secret"),)
            stub.Rerank(ask("private query", ["private passage"], return_text=True), metadata=good)
            start = pb.RerankStreamRequest(start=ask("private query", ["private passage"] * 9))
            list(stub.RerankStream(iter([start]), metadata=good))
            item = pb.RerankBatchRequest(
                request_id="private id", request=ask("private query", ["private", ""])
            )
            list(stub.RerankBatch(iter([item]), metadata=good))
            for request, metadata in (
                (ask("private query", ["private passage"]), ()),
                (ask("private query", ["private passage"]), bad),
                (ask("private query", ["private passage", ""]), good),
                (ask("private query", ["private passage"], model="private model"), good),
            ):
                refused_sync(partial(stub.Rerank, request, metadata=metadata))
            for message in (b"\xff private", b"\x0a\x07private\xff"):
                call: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(f"/{SERVICE}/Rerank")
                refused_sync(partial(call, message, metadata=good))
        tokens.write_text("accepted-secret\nnot a secret\n")
        process.wait_for("the tokens stay as they were: token_file: line 2 of ")
        process.process.send_signal(signal.SIGTERM)
        assert process.end() == 0
    finally:
        process.process.kill()
        process.process.wait()
    assert len(process.lines) > 4
    assert not [line for line in process.lines if re.search("private|secret", line)]


@pytest.mark.parametrize(
    ("flags", "code", "says"),
    [
        (["--grpc", "here"], 2, "grpc: 'here' (from --grpc) is not legal; it must be HOST:PORT"),
        (["--tls-cert", "x"], 2, "tls_cert: is of no use without tls_key; give that file too"),
        (
            ["--tls-cert", "/no/such", "--tls-key", "/no/such"],
            2,
            "tls_cert: can't read '/no/such': No such file",
        ),
        (["--token-file", "/no/such"], 2, "token_file: can't read '/no/such': No such file"),
        (["--model", "./no/such"], 1, "./no/such"),
        (["--target-ca", "x"], 2, "unrecognized arguments: --target-ca x"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_stops_the_start_is_told_with_its_code(flags: list[str], code: int, says: str) -> None:
    process = Process(*flags)
    assert process.end() == code
    assert process.lines[-1].startswith("rerankd")
    assert says in process.lines[-1]
    assert "Traceback" not in "".join(process.lines)


def printed(*flags: str, **environ: str) -> str:
    """What --print-config prints."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RERANKD_")}
    done = subprocess.run(
        [sys.executable, "-m", "rerankd", "serve", "--print-config", *flags],
        env={**kept, **environ},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=True,
    )
    return done.stdout


def test_the_whole_configuration_is_printed_and_read_again(tmp_path: Path) -> None:
    said = {
        "RERANKD_MODEL": "mini-en,/a b",
        "RERANKD_TLS_CERT": "c.pem",
        "RERANKD_TARGET_TOKEN_FILE": "my tokens",
    }
    text = printed("--tls-key", "k.pem", "--max-deadline-seconds", "2.5", **said)
    assert list(tomllib.loads(text)) == list(settings.declared())
    file = tmp_path / "rerankd.toml"
    file.write_text(text)
    again = printed("--config", str(file))
    assert tomllib.loads(again) == tomllib.loads(text)
    assert set(re.findall(r"  # (.*)$", again, re.MULTILINE)) == {str(file)}
