"""The `rerankd` command, run as its users run it: as a process, on pipes and on a terminal."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rerankd import Reranker, cli, settings, table
from support import CONTEXTS, PATIENCE, QUERY, RunningServer

SERVE = ["serve", "--grpc=127.0.0.1:0", "--http=", "--health=", "--metrics="]
COMMAND = [sys.executable, "-m", "rerankd"]
LINES = "\n".join(CONTEXTS) + "\n"


def environment(**more: str) -> dict[str, str]:
    """This process's, less what would change the command's mind."""
    unwanted = ("RERANKD_", "NO_COLOR", "COLUMNS", "PYTHONIOENCODING", "PYTHONUTF8", "LC_", "LANG")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(unwanted)}
    return {**kept, "LC_ALL": "C.UTF-8", "TERM": "xterm", **more}


def run(*arguments: str, stdin: str | bytes = "", **environ: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [*COMMAND, *arguments],
        input=stdin if isinstance(stdin, bytes) else stdin.encode(),
        capture_output=True,
        env=environment(**environ),
        timeout=2 * PATIENCE,
        check=False,
    )
    stdout, stderr = done.stdout.decode(), done.stderr.decode()
    assert "Traceback" not in stderr, stderr
    return subprocess.CompletedProcess(done.args, done.returncode, stdout, stderr)


def ok(*arguments: str, stdin: str | bytes = "", **environ: str) -> str:
    done = run(*arguments, stdin=stdin, **environ)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def fails(code: int, *arguments: str, stdin: str | bytes = "", **environ: str) -> str:
    """The one sentence that a failure is worth."""
    done = run(*arguments, stdin=stdin, **environ)
    assert (done.returncode, done.stdout) == (code, "")
    assert done.stderr.count("\n") == 1
    return done.stderr


def on_a_terminal(*arguments: str, stdin: str = "", columns: int = 80, **environ: str) -> list[str]:
    """What a terminal of so many columns is sent, by line."""
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [*COMMAND, *arguments],
        stdin=subprocess.PIPE,
        stdout=theirs,
        stderr=theirs,
        env=environment(COLUMNS=str(columns), **environ),
    ) as process:
        os.close(theirs)
        assert process.stdin is not None
        process.stdin.write(stdin.encode())
        process.stdin.close()
        sent = b"".join(_everything(ours))
    os.close(ours)
    assert process.returncode == 0, sent
    return sent.decode().replace("\r\n", "\n").splitlines()


def _everything(descriptor: int) -> Iterator[bytes]:
    while select.select([descriptor], [], [], 2 * PATIENCE)[0]:
        try:
            data = os.read(descriptor, 65536)
        except OSError:  # Linux: the other end is closed
            return
        if not data:
            return
        yield data


def bare(line: str) -> str:
    return re.sub(r"\033\[[0-9;]*m", "", line)


# ---- rank -------------------------------------------------------------------------------------------------


def test_a_pipe_gets_a_score_and_a_line_per_result(reranker: Reranker) -> None:
    wanted = [f"{result.score:.6f}\t{CONTEXTS[result.id]}" for result in reranker.rank(QUERY, CONTEXTS)]
    assert ok("rank", QUERY, stdin=LINES).splitlines() == wanted
    assert ok("rank", "--top-k=2", "--", QUERY, "-", stdin=LINES).splitlines() == wanted[:2]


def test_a_file_is_ranked(tmp_path: Path, reranker: Reranker) -> None:
    file = tmp_path / "candidates.txt"
    # A byte-order mark, a line end of Windows, blank lines, and no end to the last.
    file.write_bytes(b"\xef\xbb\xbf" + f"{CONTEXTS[0]}\r\n\n \t\n{CONTEXTS[1]}".encode())
    answer = json.loads(ok("rank", QUERY, str(file), "--json"))
    wanted = reranker.rank(QUERY, CONTEXTS[:2])
    assert [(r["id"], r["line"], r["text"]) for r in answer["results"]] == [
        (result.id, [1, 4][result.id], CONTEXTS[result.id]) for result in wanted
    ]


def test_json_is_one_object_of_the_documented_shape(reranker: Reranker) -> None:
    answer = json.loads(ok("rank", QUERY, "--json", "--score", "logit", "--top-k", "3", stdin=LINES))
    wanted = reranker.rank(QUERY, CONTEXTS, 3, "logit")
    assert answer.keys() == {"query", "model", "results", "unscored", "usage", "timing"}
    assert (answer["query"], answer["model"], answer["unscored"]) == (QUERY, "mini-en", [])
    assert answer["results"] == [
        {"id": r.id, "line": r.id + 1, "score": r.score, "text": CONTEXTS[r.id], "truncated": False}
        for r in wanted
    ]
    assert answer["usage"] == {"contexts": 4, "tokens": wanted.usage.tokens, "truncated": 0}
    assert answer["timing"].keys() == {"queue_us", "tokenize_us", "compute_us", "total_us"}


def test_nothing_to_rank() -> None:
    assert ok("rank", QUERY, stdin="\n \n") == ""
    assert json.loads(ok("rank", QUERY, "--json"))["results"] == []


def test_options_are_passed_on(reranker: Reranker) -> None:
    best = reranker.rank(QUERY, CONTEXTS, 1)[0].score
    assert len(ok("rank", QUERY, "--min-score", repr(best), stdin=LINES).splitlines()) == 1
    cut = json.loads(ok("rank", QUERY, "--max-tokens", "12", "--threads", "1", "--json", stdin=LINES))
    assert cut["usage"]["truncated"] == 4
    said = fails(2, "rank", QUERY, "--overflow", "reject", stdin="\n" + LINES, RERANKD_MAX_TOKENS="12")
    assert re.match("rerankd rank: line [2-5]: has 1[0-9] tokens", said)


def test_a_server_is_asked(server: RunningServer, tmp_path: Path) -> None:
    here = json.loads(ok("rank", QUERY, "--json", stdin=LINES))
    there = json.loads(ok("rank", QUERY, "--json", "--target", server.target, stdin=LINES))
    assert {**there, "timing": None} == {**here, "timing": None}
    cut = ok("rank", QUERY, "--json", "--target", server.target, "--max-tokens", "12", stdin=LINES)
    assert json.loads(cut)["usage"]["truncated"] == 4
    # What this machine would serve is nothing to a server elsewhere.
    environ = {"RERANKD_MODEL": str(tmp_path), "RERANKD_MAX_TOKENS": "12", "RERANKD_THREADS": "1"}
    there = json.loads(ok("rank", QUERY, "--json", "--target", server.target, stdin=LINES, **environ))
    assert there["results"] == here["results"]


def test_ranking_here_loads_no_grpc_and_ranking_there_no_engine(server: RunningServer) -> None:
    program = (
        "import sys\n"
        "from rerankd.cli import main\n"
        "assert main(sys.argv[1:]) == 0\n"
        "print([name for name in ('grpc', 'google.protobuf', 'rerankd._core', 'numpy', 'huggingface_hub')"
        " if name in sys.modules], file=sys.stderr)\n"
    )

    def loaded(*arguments: str) -> str:
        command = [sys.executable, "-c", program, *arguments]
        done = subprocess.run(
            command, input=LINES, capture_output=True, text=True, env=environment(), check=True
        )
        return done.stderr.strip()

    assert loaded("rank", QUERY) == "['rerankd._core', 'numpy']"
    assert loaded("rank", QUERY, "--target", server.target) == "['grpc', 'google.protobuf']"


# ---- on a terminal ----------------------------------------------------------------------------------------


def test_a_terminal_gets_a_table_with_bars(reranker: Reranker) -> None:
    lines = on_a_terminal("rank", QUERY, stdin=LINES, columns=72)
    ranking = reranker.rank(QUERY, CONTEXTS)
    assert bare(lines[0]) == QUERY
    assert lines[0] == f"\033[1m{QUERY}\033[0m"
    assert len(lines) == 6
    for at, (line, result) in enumerate(zip(lines[1:5], ranking, strict=True), 1):
        assert table.width(bare(line)) <= 72
        number, score, rest = bare(line).split(maxsplit=2)
        assert (number, score) == (str(at), f"{result.score:.4f}")
        assert rest.lstrip("█▏▎▍▌▋▊▉ ").startswith(CONTEXTS[result.id][:20])
        assert ("\033[32m" in line) == (result.score >= 0.5)
    lengths = [bare(line).count("█") for line in lines[1:5]]
    assert lengths == sorted(lengths, reverse=True)
    assert lengths[0] > lengths[-1]
    assert re.fullmatch(r"4 contexts · 62 tokens · [0-9.]+ ms · mini-en", bare(lines[5]))


def test_no_colour_where_it_is_not_wanted() -> None:
    for lines in (
        on_a_terminal("rank", QUERY, stdin=LINES, NO_COLOR="1"),
        on_a_terminal("rank", QUERY, stdin=LINES, TERM="dumb"),
    ):
        assert "\033" not in "".join(lines)
        assert "█" in "".join(lines)
    assert "\033" in "".join(on_a_terminal("rank", QUERY, stdin=LINES, NO_COLOR=""))


def test_plain_ascii_where_the_encoding_knows_no_more() -> None:
    lines = on_a_terminal("rank", QUERY, stdin="a café\nbamboo 🐼\n", PYTHONIOENCODING="ascii")
    assert all(line.isascii() for line in lines)
    assert "#" in lines[1]
    assert {"caf?", "?"} <= {line.split()[-1] for line in lines[1:3]}
    assert " - mini-en" in lines[3]


@pytest.mark.parametrize("columns", [20, 39, 40, 200])
def test_a_table_fits_its_terminal(columns: int) -> None:
    wide = "漢字かな交じり文" * 30
    lines = on_a_terminal("rank", wide, stdin=f"{wide}\n{wide}\ttab\n", columns=columns)
    assert max(table.width(bare(line)) for line in lines) <= columns
    assert "…" in lines[1]


def test_a_passage_cannot_drive_the_terminal() -> None:
    lines = on_a_terminal("rank", "clear\033[2J", stdin="a\033]0;title\abc\n\u202eoverride\n", NO_COLOR="1")
    assert not set("".join(lines)) & {"\033", "\a", "\u202e"}


@given(
    st.lists(st.tuples(st.floats(-1, 2), st.text("0.", max_size=4), st.text(max_size=200)), max_size=12),
    st.integers(0, 200),
    st.sampled_from(["utf-8", "ascii", "latin-1", "no-such-encoding", None]),
)
def test_bars_fit_whatever_they_hold(
    rows: list[tuple[float, str, str]], columns: int, encoding: str | None
) -> None:
    screen = table.Screen.of(columns, encoding, colour=False)
    lines = table.bars(screen, rows)
    assert len(lines) == len(rows)
    for line in lines:
        assert table.width(line) <= screen.columns
        assert "\n" not in line
        assert encoding == "utf-8" or line.isascii()


# ---- models, serve ----------------------------------------------------------------------------------------


def test_models_are_listed(server: RunningServer, tmp_path: Path) -> None:
    environ = {"HF_HOME": str(tmp_path)}
    assert ok("models", **environ) == "embedded\tmini-en\tdefault\n"
    served = ok("models", "--target", server.target, **environ).splitlines()[1]
    dtype = server.reranker.engine.dtype
    assert served == f"served\tmini-en\tbert, cpu, {dtype}, 512 tokens per pair, default"
    listing = json.loads(ok("models", "--target", server.target, "--json", **environ))
    assert listing.keys() == {"embedded", "cached", "served"}
    assert listing["embedded"][0]["name"] == "mini-en"
    assert listing["cached"] == []
    assert listing["served"][0]["max_contexts"] == 1000
    lines = on_a_terminal("models", "--target", server.target, columns=40, HF_HOME=str(tmp_path))
    assert lines[0] == "embedded  mini-en  default"
    assert len(lines[1]) <= 40
    # The precision's name moves the cut.
    assert lines[1] == f"served    mini-en  bert, cpu, {dtype}, 512 tokens"[: len(lines[1]) - 1] + "…"


def test_the_configuration_is_printed(tmp_path: Path) -> None:
    text = ok("serve", "--threads", "3", "--print-config", RERANKD_GRPC="127.0.0.1:1")
    assert re.search(r"^threads = 3 +# --threads$", text, re.MULTILINE)
    assert re.search(r'^grpc = "127.0.0.1:1" +# RERANKD_GRPC$', text, re.MULTILINE)
    assert re.search(r'^health = "0.0.0.0:50052" +# default$', text, re.MULTILINE)
    file = tmp_path / "rerankd.toml"
    file.write_text(text)
    again = ok("serve", "--config", str(file), "--print-config")
    assert [line.partition("#")[0] for line in again.splitlines()] == [
        line.partition("#")[0] for line in text.splitlines()
    ]


@contextmanager
def serving(*arguments: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A server process, and where it listens."""
    command = [*COMMAND, *SERVE, *arguments]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment()) as process:
        assert process.stderr is not None
        try:
            said = []
            for line in process.stderr:
                said.append(line)
                if found := re.search(r"serving gRPC on (\S+:\d+)", line):
                    yield process, found[1]
                    break
            else:
                pytest.fail("".join(said))
        finally:
            process.kill()


def test_serve_serves_until_it_is_told_to_stop() -> None:
    with serving("--drain-seconds", "0") as (process, target):
        assert json.loads(ok("rank", QUERY, "--json", "--target", target, stdin=LINES))["model"] == "mini-en"
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE) == 0


# ---- mistakes ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["rank", ""], "rerankd rank: query: must not be empty"),
        (["rank", QUERY, "--top-k", "0"], "rerankd rank: top_k: must be at least 1"),
        (["rank", QUERY, "--top-k", "few"], "rerankd rank: argument --top-k: invalid int value: 'few'"),
        (["rank", QUERY, "--min-score", "nan"], "rerankd rank: min_score: must not be NaN"),
        (["rank", QUERY, "--score", "points"], "score: must be one of sigmoid, logit; not 'points'"),
        (["rank", QUERY, "--threads", "0"], "threads: '0' (from --threads) is not legal; it must be"),
        (["rank", QUERY, "--model", "a", "--model", "b"], "model: one model ranks, and here are 2"),
        (["rank", QUERY, "/no/such/file"], "FILE: can't read '/no/such/file': No such file or directory"),
        (["rank", QUERY, "/"], "FILE: can't read '/': Is a directory"),
        (["rank", QUERY, "--target", "127.0.0.1:1", "--device", "cpu"], "--device is for ranking in this"),
        (["rank"], "the following arguments are required: QUERY"),
        (["rerank"], "invalid choice: 'rerank'"),
        (["serve", "--grcp", "x"], "unrecognized arguments: --grcp x"),
        (["serve", "--grpc", "here"], "grpc: 'here' (from --grpc) is not legal; it must be HOST:PORT"),
        (["serve", "--config", "/no/such/file"], "config: can't read '/no/such/file' (from --config)"),
        (["models", "--target"], "argument --target: expected one argument"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_mistake_is_one_sentence_and_code_2(arguments: list[str], says: str) -> None:
    assert says in fails(2, *arguments, stdin=LINES)


def test_a_mistake_in_the_environment() -> None:
    for command in (["serve"], ["rank", QUERY]):
        said = fails(2, *command, RERANKD_THREAD="3")
        assert said.endswith("RERANKD_THREAD: no such setting; did you mean RERANKD_THREADS?\n")


def test_a_line_that_is_not_utf_8() -> None:
    said = fails(2, "rank", QUERY, stdin=b"fine\nfine\nd\xe9j\xe0 vu\n")
    assert said == "rerankd rank: FILE: line 3 of '-' is not UTF-8\n"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["rank", QUERY, "--model", "no-such-model"], "'no-such-model' is neither an embedded model"),
        (["rank", QUERY, "--device", "cuda:99"], "cuda:99"),
        (["rank", QUERY, "--target", "127.0.0.1:1"], "no answer from 127.0.0.1:1: "),
        (["models", "--target", "127.0.0.1:1"], "no answer from 127.0.0.1:1: "),
        (
            [*SERVE, "--model", "no-such-model"],
            "'no-such-model'",
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_else_fails_is_one_sentence_and_code_1(arguments: list[str], says: str) -> None:
    # A server says in its log what it is about to do.
    assert says in fails(1, *arguments, stdin=LINES, RERANKD_LOG_LEVEL="error")


def test_an_unknown_model_of_a_server(server: RunningServer) -> None:
    said = fails(1, "rank", QUERY, "--target", server.target, "--model", "nobody", stdin=LINES)
    assert said == "rerankd rank: no model 'nobody' is served here; served: mini-en\n"


def test_a_reader_that_has_had_enough() -> None:
    with subprocess.Popen(
        [*COMMAND, "rank", QUERY], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        process.stdin.write(LINES.encode())
        process.stdin.close()
        assert process.stderr.read() == b""
        assert process.wait(PATIENCE) == 0


def test_ctrl_c_is_130_and_says_nothing() -> None:
    ours, theirs = pty.openpty()
    # A shell's background jobs start with SIGINT ignored, and so would what they start.
    command = ["env", "--default-signal=INT", *COMMAND, "rank", QUERY]
    with subprocess.Popen(command, stdin=theirs, stderr=subprocess.PIPE) as process:
        os.close(theirs)
        assert process.stderr is not None
        # It is about to read once it has asked.
        assert process.stderr.readline() == b"Type the candidates, one per line; Ctrl-D ends them.\n"
        process.send_signal(signal.SIGINT)
        assert process.stderr.read() == b""
        assert process.wait(PATIENCE) == 130
    os.close(ours)


# ---- help -------------------------------------------------------------------------------------------------


def test_help() -> None:
    overview = ok()
    assert overview == ok("--help")
    for command in ("serve", "rank", "compare", "bench", "models"):
        assert command in overview
        assert ok(command, "--help").startswith(f"usage: rerankd {command}")
    text = ok("serve", "--help", COLUMNS="200")
    for name in settings.of_server():
        assert settings.flag(name) in text
    for command in ("rank", "models"):
        text = ok(command, "--help", COLUMNS="200")
        for name in settings.of_client():
            assert settings.flag(name) in text
        assert settings.variable(name) in text


def test_version() -> None:
    assert re.fullmatch(r"rerankd \d+\.\d+\.\d+\S*\n", ok("--version"))


def test_the_command_is_installed() -> None:
    command: Any = Path(sys.executable).with_name("rerankd")
    done = subprocess.run([command, "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == ok("--version")


def test_main_takes_arguments(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["models", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["embedded"][0]["name"] == "mini-en"


def test_the_demo() -> None:
    demo = Path(__file__).parents[1] / "examples" / "demo.py"
    done = subprocess.run(
        [sys.executable, demo], capture_output=True, text=True, env=environment(), check=False
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    assert re.search(r"^  1\. █+░* +0\.\d+  Click 'Can't sign in\?'", done.stdout, re.MULTILINE)
    assert len(re.findall(r"^ +[0-9.]+ ms  [█░]{16}", done.stdout, re.MULTILINE)) == 10
    assert done.stdout.endswith("SIGTERM: the server ended with exit code 0\n")
