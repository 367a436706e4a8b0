"""`rerankd bench` as its users run it, against real servers."""

from __future__ import annotations

import argparse
import dataclasses
import json
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from authority import Authority
from rerankd import bench_command, bench_figures, bench_result, bench_server, settings
from support import PATIENCE, RunningServer, Serve
from test_cli import COMMAND, bare, environment, fails, ok, on_a_terminal, run

DOCUMENT = (Path(__file__).parents[1] / "docs" / "bench.md").read_text("utf-8")
QUICK = ("--duration=1", "--warmup=0.2", "--mix=1:0.8,3:0.2", "--words=3-8")


def test_a_server_is_put_under_an_open_loop(server: RunningServer, tmp_path: Path) -> None:
    plot, file = tmp_path / "plot.svg", tmp_path / "result.json"
    said = ok("bench", "--target", server.target, "--rate=40", *QUICK, f"--plot={plot}", f"--json={file}")
    served = f"mini-en · {server.reranker.engine.dtype} on cpu"
    assert said.startswith(f"{served} · open loop, 40.0 calls/s · contexts 1:0.8,3:0.2 · 1 s\n")
    assert re.search(r"^\d+ calls: OK \d+\.$", said, re.MULTILINE)
    assert re.search(r"^OK, 3 contexts +\d+ ", said, re.MULTILINE)
    assert "percentile of calls" in plot.read_text("utf-8")
    found = json.loads(file.read_text("utf-8"))
    total = found["total"]
    assert (found["loop"], found["rate"], found["target"], found["own_server"]) == (
        "open",
        40,
        server.target,
        False,
    )
    assert total["calls"] == total["ok"] == sum(each["figures"]["calls"] for each in found["classes"]) > 10
    assert total["codes"] == {"OK": total["calls"]}
    assert found["generator"]["lag_ms"]["count"] == total["latency_ms"]["ok"]["count"] == total["calls"]
    assert found["calibration"] is None
    assert not found["interrupted"]


def test_a_closed_loop_of_streams(server: RunningServer) -> None:
    answer = ok(
        "bench",
        "--target",
        server.target,
        "--concurrency=2",
        *QUICK,
        "--stream",
        "--deadline-ms=30000",
        "--json=-",
    )
    found = json.loads(answer)
    assert (found["loop"], found["rate"], found["asked"]["concurrency"]) == ("closed", None, 2)
    assert found["generator"]["most_in_flight"] == 2
    total = found["total"]
    assert total["late"] == total["failed"] == total["refused"] == 0
    assert total["latency_ms"]["first_scores"]["count"] == total["ok"] > 0
    # Two in flight when it began to count, two when it ended.
    assert abs(total["answered"] * found["seconds"] - total["calls"]) <= 2
    goodput = total["goodput"]
    assert goodput["requests"] < goodput["contexts"] < goodput["tokens"]


@pytest.mark.parametrize("stream", [(), ("--stream",)])
def test_a_server_that_wants_to_know_its_callers(
    serve: Serve, tmp_path: Path, stream: tuple[str, ...]
) -> None:
    authority, tokens = Authority(tmp_path), tmp_path / "tokens"
    tokens.write_text("some-token\n")
    pair, own = authority.issue("server"), authority.issue("client")
    secure = serve(
        tls_cert=pair.cert,
        tls_key=pair.key,
        tls_client_ca=authority.ca,
        token_file=str(tokens),
        threads=1,
    )
    files = [f"--target-ca={authority.ca}", f"--target-cert={own.cert}", f"--target-key={own.key}"]
    asked = ["bench", "--target", secure.target, "--concurrency=2", *QUICK, "--json=-", *stream, *files]
    found = json.loads(ok(*asked, f"--target-token-file={tokens}"))
    assert found["total"]["calls"] == found["total"]["ok"] > 0
    assert found["target"] == secure.target
    assert fails(1, *asked).startswith("rerankd bench: this server wants a token")


def test_how_to_ask_is_of_no_use_to_a_server_of_its_own() -> None:
    said = fails(2, "bench", "--target-tls")
    assert said == "rerankd bench: --target-tls: is for asking a server; say which with --target\n"


def test_a_multiple_of_the_capacity_on_a_server_of_its_own() -> None:
    done = run("bench", "--rate=0.5x", "--concurrency=2", *QUICK, "--threads=1", "--json=-")
    assert done.returncode == 0
    assert re.fullmatch(
        r"rerankd bench: no --target, so a server was started at 127.0.0.1:\d+\n", done.stderr
    )
    found = json.loads(done.stdout)
    assert found["own_server"]
    assert found["target"] in done.stderr
    assert found["calibration"]["workers"] == 2
    assert found["calibration"]["seconds"] >= 3
    assert found["rate"] == pytest.approx(found["calibration"]["capacity"] / 2)
    assert found["asked"]["rate"] == "0.5x"


def test_refusals_are_counted(serve: Serve) -> None:
    """An empty queue takes any request; while it holds one there is no room for another."""
    tiny = serve(queue_tokens=40, threads=1)
    answer = ok(
        "bench",
        "--target",
        tiny.target,
        "--concurrency=8",
        "--mix=40",
        "--duration=2",
        "--warmup=0",
        "--json=-",
    )
    total = json.loads(answer)["total"]
    assert total["refused"] == total["codes"]["UNAVAILABLE"] == total["latency_ms"]["refused"]["count"] > 0
    assert total["refused_share"] == pytest.approx(total["refused"] / total["calls"])
    assert total["failed"] == 0
    assert total["ok"] + total["refused"] == total["calls"]


def test_a_file_of_ones_own_queries(server: RunningServer) -> None:
    lines = [
        '{"query": "q", "contexts": ["a", "b"]}',
        '{"query": "r", "contexts": [{"text": "c", "label": 1}]}',
    ]
    target = ("--target", server.target)
    answer = ok(
        "bench", *target, "--file=-", "--concurrency=1", "--duration=0.5", "--json=-", stdin="\n".join(lines)
    )
    found = json.loads(answer)
    assert [(each["contexts"], each["weight"]) for each in found["classes"]] == [("1", 1), ("2", 1)]
    assert (found["asked"]["file"], found["asked"]["mix"], found["asked"]["words"]) == ("-", None, None)


def paths(kind: Any, prefix: str = "") -> Iterator[str]:
    """The keys of a result, as the document spells them."""
    for field in dataclasses.fields(kind):
        inner = re.match(r"(?:tuple\[)?(\w+)", str(field.type))
        name = inner[1] if inner else ""
        nested = getattr(bench_result, name, None)
        key = prefix + field.name + ("[]" if str(field.type).startswith("tuple") else "")
        if name in ("Figures", "Percentiles") or nested is None or not dataclasses.is_dataclass(nested):
            yield key
        else:
            yield from paths(nested, key + ".")


def test_every_key_is_documented_and_there_are_no_others(server: RunningServer) -> None:
    _, _, text = DOCUMENT.partition("## JSON")
    result, figures, percentiles = re.split(r"^(?:FIGURES|PERCENTILES): ?", text, flags=re.MULTILINE)

    def keys(part: str) -> set[str]:
        rows = re.findall(r"^\| (`.*?) \|", part, re.MULTILINE)
        return {key for row in rows for key in re.findall(r"`([^`]+)`", row)}

    assert keys(result) == set(paths(bench_result.Result))
    of_latency = {f"latency_ms.{f.name}" for f in dataclasses.fields(bench_figures.Latency)}
    of_goodput = {f"goodput.{f.name}" for f in dataclasses.fields(bench_figures.Goodput)}
    plain = {f.name for f in dataclasses.fields(bench_figures.Figures)} - {"latency_ms", "goodput"}
    assert keys(figures) == plain | of_latency | of_goodput
    listed = re.findall(r"`([^`]+)`", percentiles.partition(", in milliseconds")[0])
    assert listed == [f.name for f in dataclasses.fields(bench_figures.Percentiles)]
    # What is printed has them, in that order.
    answer = json.loads(ok("bench", "--target", server.target, "--concurrency=1", *QUICK, "--json=-"))
    assert list(answer) == [f.name for f in dataclasses.fields(bench_result.Result)]
    assert list(answer["total"]["latency_ms"]["ok"]) == listed


def test_ctrl_c_prints_what_there_is(server: RunningServer) -> None:
    # A shell's background jobs start with SIGINT ignored, and so would what they start.
    command = ["env", "--default-signal=INT", *COMMAND, "bench", "--target", server.target]
    arguments = ["--concurrency=2", "--duration=600", "--warmup=0", "--mix=1", "--words=3"]
    before = server.server.calls
    with subprocess.Popen(
        [*command, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment()
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        while server.server.calls == before and process.poll() is None:
            pass
        process.send_signal(signal.SIGINT)
        said = process.stdout.read().decode()
        assert process.stderr.read() == b""
        assert process.wait(PATIENCE) == 130
    assert re.search(r"^Interrupted: \d+\.\d s counted\.$", said, re.MULTILINE)
    assert re.search(r"^latency, ms +calls ", said, re.MULTILINE)


def test_a_terminal_sees_how_far_it_is(server: RunningServer) -> None:
    lines = on_a_terminal("bench", "--target", server.target, "--rate=20", *QUICK, columns=60)
    told = "\n".join(lines)
    assert re.search(r"load \|.*\| [01] of 1 s, \d+ OK, 0 refused, 0 failed, \d+ in flight", told)
    table = [bare(line) for line in lines]
    assert any(re.match("latency, ms .* max$", line) for line in table)
    assert max(len(line.split("\r")[-1]) for line in table) <= 60


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--mix=5:0"], "mix: '5:0' (from --mix) is not legal; it must be CONTEXTS:WEIGHT with commas"),
        (
            ["--rate=fast"],
            "rate: 'fast' (from --rate) is not legal; it must be calls a second above 0, as 50",
        ),
        (["--words=9-3"], "words: '9-3' (from --words) is not legal; it must be a number of words from 1"),
        (["--concurrency=0"], "concurrency: '0' (from --concurrency) is not legal; it must be an integer"),
        (["--priority=urgent"], "priority: must be one of interactive, batch; not 'urgent'"),
        (["--rate=5", "--concurrency=5"], "concurrency: is of a closed loop, and --rate 5 is an open one"),
        (["--duration=0"], "duration: is 0; give at least a moment that counts"),
        (["--rate=1e9"], "rate: '1e9' (from --rate) is not legal"),
        (["--rate=9000000", "--duration=60"], "rate: 9e+06 a second for 61 s are more than 10,000,000 calls"),
        (["--file=/no/such/file"], "FILE: can't read '/no/such/file': No such file or directory"),
        (["--file=-", "--mix=5"], "mix: is for made-up text, and --file has its own; leave out --mix"),
        (["--file=-"], "line 1 of '-', query: is missing; each line is to be {"),
        (["--plot=x.pdf"], "plot: 'x.pdf' ends in neither .png nor .svg; name it so"),
        (["--plot=/no/such/x.svg"], "plot: can't write '/no/such/x.svg': No such file or directory"),
        (["--json=/no/such/x"], "json: can't write '/no/such/x': No such file or directory"),
        (["--threads=2"], "threads: is for a server of the bench's own; leave it out, or --target"),
        (["--target-ca=/no/such"], "target_ca: can't read '/no/such': No such file or directory"),
        (["--model=a", "--model=b"], "model: one model is measured, and here are 2"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_mistake_is_one_sentence_and_code_2(server: RunningServer, arguments: list[str], says: str) -> None:
    said = fails(2, "bench", "--target", server.target, *arguments, stdin='{"no": "query"}')
    assert said.startswith("rerankd bench: " + says)


def test_what_else_fails_is_one_sentence_and_code_1(server: RunningServer) -> None:
    assert "no answer from 127.0.0.1:1: " in fails(1, "bench", "--target", "127.0.0.1:1")
    said = fails(1, "bench", "--target", server.target, "--model=nobody")
    assert said == "rerankd bench: no model 'nobody' is served there; served: mini-en\n"
    said = fails(
        1, "bench", "--target", server.target, "--rate=2x", "--mix=900", "--concurrency=1", "--deadline-ms=1"
    )
    assert "while the capacity was measured (DEADLINE_EXCEEDED: " in said


def test_calls_that_are_too_large_are_not_sent(serve: Serve) -> None:
    few = serve(max_contexts=2)
    said = fails(2, "bench", "--target", few.target, "--mix=2,3")
    assert said.startswith("rerankd bench: mix: has a call of 3 contexts, and mini-en takes 2 a call there; ")


def test_no_flag_takes_long_to_load() -> None:
    """numpy, gRPC and the rest are for the commands that need them; the command line knows the bench's flags
    without them."""
    program = "import sys, rerankd.cli; rerankd.cli._parser(); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert {"rerankd.bench_command", "argparse"} <= set(done.stdout.split())
    assert not {"numpy", "grpc", "tqdm", "matplotlib", "rerankd._core"} & set(done.stdout.split())


def test_no_flag_of_the_bench_is_a_settings_name() -> None:
    """They share one namespace, in which a setting's name means what was said of the setting."""
    parser = argparse.ArgumentParser()
    bench_command.add_arguments(parser)
    own = {action.dest for action in parser._actions} - {
        "help",
        "config",
        *bench_server.FLAGS,
        *settings.of_client(),
    }
    assert own.isdisjoint(settings.declared())
    assert own >= {"target", "rate", "mix", "json", "plot"}
