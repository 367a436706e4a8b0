"""`rerankd bench`: its flags and its run."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from rerankd import asking, bench_kinds, bench_server, knobs, samples, settings
from rerankd.errors import InputError

if TYPE_CHECKING:
    from rerankd.bench_kinds import Rate
    from rerankd.bench_load import Measured
    from rerankd.bench_result import Result
    from rerankd.bench_run import Plan

ABOUT: Final = """\
Puts a server under load and tells how it bears it. With --rate, so many calls a second are sent, at random
moments that were drawn before the first of them, whether or not the server keeps up (an open loop, as users
are); with --concurrency, so many workers each wait for an answer before they ask again (a closed loop). With
neither: --rate 0.7x. Latency counts from when a call was due: a server can't hide its delays by delaying the
load. With no --target, a server is started on a free port of this machine, for the time of the bench.
"""
OUTPUT: Final = """\
output:
  a table; with --json, one object, and docs/bench.md says what its keys mean. Ctrl-C ends the run, and prints
  what there is.
"""
_DEFAULT_RATE: Final = "0.7x"
# Enough calls at once to keep any number of cores busy, few enough for any queue.
_WORKERS: Final = 16
_KINDS: Final[dict[str, knobs.Kind]] = {
    "rate": knobs.Kind(
        "R", "calls a second above 0, as 50, or a multiple of the capacity, as 0.7x", bench_kinds.Rate.parse
    ),
    "concurrency": knobs.integer(1, 10_000),
    "duration": knobs.seconds(),
    "warmup": knobs.seconds(),
    "mix": knobs.Kind(
        "MIX",
        "CONTEXTS:WEIGHT with commas between them, as 5:0.9,100:0.1, each number of contexts from 1 to 99999 "
        "and once, each weight above 0",
        bench_kinds.parse_mix,
    ),
    "words": knobs.Kind(
        "N-M", "a number of words from 1 to 99999, or a range, as 20-120", bench_kinds.parse_words
    ),
    "deadline_ms": knobs.integer(1),
    "budget_ms": knobs.integer(1),
    "seed": knobs.integer(0),
}
_DEFAULTS: Final = {"duration": "10", "warmup": "1", "mix": "5:0.9,100:0.1", "words": "20-120", "seed": "1"}
_HELP: Final = {
    "rate": f"open loop: calls a second, or NUMBERx, times the capacity, which a closed loop of a few "
    f"seconds measures first; default: {_DEFAULT_RATE}",
    "concurrency": f"closed loop: workers; with --rate NUMBERx, those that measure the capacity ({_WORKERS})",
    "duration": "seconds that count; default: 10",
    "warmup": "seconds under load before them; default: 1",
    "mix": "contexts per request and how often, as CONTEXTS:WEIGHT,...; default: 5:0.9,100:0.1",
    "words": "words per context, drawn evenly; default: 20-120",
    "deadline_ms": "each call's deadline; later answers are no goodput; default: none",
    "budget_ms": "ask for the best ranking that this time buys; default: for all",
    "seed": "of moments, sizes and texts; default: 1",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """All but the settings' own flags. They are checked by `run`."""
    parser.add_argument("--target", metavar="HOST:PORT", help="the server; default: one of the bench's own")
    for name, kind in _KINDS.items():
        parser.add_argument(settings.flag(name), metavar=kind.metavar, help=_HELP[name])
    parser.add_argument(
        "--file",
        metavar="FILE",
        help=f"send queries of your own instead of made-up text: JSON lines, as {samples.FORM}; -: stdin",
    )
    parser.add_argument(
        "--priority", default="interactive", metavar="NAME", help="interactive, the default, or batch"
    )
    parser.add_argument("--stream", action="store_true", help="call RerankStream instead of Rerank")
    parser.add_argument("--json", metavar="FILE", help="write one JSON object; -: to stdout, and no table")
    parser.add_argument("--plot", metavar="FILE", help="draw latencies as .png or .svg; needs rerankd[plot]")
    settings.add_arguments(parser, only=(*bench_server.FLAGS, *settings.of_client()))


def run(arguments: argparse.Namespace, numbers: Sequence[int], lines: Sequence[str]) -> Result:
    """Puts the server under load, and writes the files that were asked for. numbers, lines: those of --file.

    Raises InputError for a flag or a line, UnreachableError where there is no server, and what else
    `bench_run.run` does.
    """
    from rerankd import bench_plot, bench_run  # noqa: PLC0415 - numpy and gRPC are for those who need them

    asking.refuse_without_target(arguments)
    plan = _plan(arguments, numbers, lines)
    model = _model(arguments)
    if arguments.plot is not None:
        bench_plot.check(arguments.plot)
    _check_files(arguments)

    with _server(arguments) as server:
        result, calls = bench_run.run(plan, server, model, own=arguments.target is None)
    if arguments.json not in (None, "-"):
        Path(arguments.json).write_text(json.dumps(dataclasses.asdict(result), indent=2) + "\n", "utf-8")
    if arguments.plot is not None:
        bench_plot.draw(result, calls, arguments.plot)
    return result


def _check_files(arguments: argparse.Namespace) -> None:
    """Whether the files can be written: before the run, since after it the figures would be lost."""
    for name in ("json", "plot"):
        path = getattr(arguments, name)
        if path is None or (name, path) == ("json", "-"):
            continue
        try:
            with Path(path).open("a", encoding="utf-8"):
                pass
        except OSError as error:
            raise InputError(name, f"can't write {path!r}: {error.strerror}") from None


def _plan(arguments: argparse.Namespace, numbers: Sequence[int], lines: Sequence[str]) -> Plan:
    from rerankd import bench, bench_run, ranking  # noqa: PLC0415 - as in `run`
    from rerankd.bench_result import Asked  # noqa: PLC0415

    given = {name: getattr(arguments, name) for name in _KINDS if getattr(arguments, name) is not None}
    if arguments.file is not None:
        for name in ("mix", "words"):
            if name in given:
                raise InputError(
                    name, f"is for made-up text, and --file has its own; leave out {settings.flag(name)}"
                )
    if "rate" not in given and "concurrency" not in given:
        given["rate"] = _DEFAULT_RATE
    values = {name: _checked(name, given.get(name, _DEFAULTS.get(name))) for name in _KINDS}
    rate: Rate | None = values["rate"]
    if rate is not None and not rate.of_capacity and values["concurrency"] is not None:
        raise InputError(
            "concurrency", f"is of a closed loop, and --rate {rate} is an open one; leave out one of the two"
        )
    if not values["duration"]:
        raise InputError("duration", "is 0; give at least a moment that counts")
    workers = values["concurrency"] or (_WORKERS if rate is not None and rate.of_capacity else None)
    made_up = arguments.file is None
    asked = Asked(
        rate=None if rate is None else str(rate),
        concurrency=workers,
        duration=values["duration"],
        warmup=values["warmup"],
        mix=str(given.get("mix", _DEFAULTS["mix"])) if made_up else None,
        words=str(given.get("words", _DEFAULTS["words"])) if made_up else None,
        file=arguments.file,
        deadline_ms=values["deadline_ms"],
        budget_ms=values["budget_ms"],
        priority=arguments.priority,
        stream=arguments.stream,
        seed=values["seed"],
    )
    if made_up:
        groups = bench.made(values["mix"], values["words"], asked.seed)
    else:
        groups = bench.read(samples.read(arguments.file, numbers, lines))
    options = ranking.Options(budget_ms=asked.budget_ms, priority=asked.priority)
    return bench_run.Plan(asked, rate, groups, options)


def _checked(name: str, raw: object) -> Any:
    kind = _KINDS[name]
    try:
        return None if raw is None else kind.parse(raw)
    except ValueError:
        said = f"{raw!r} (from {settings.flag(name)}) is not legal; it must be {kind.legal}"
        raise InputError(name, said) from None


def _model(arguments: argparse.Namespace) -> str:
    """The model to ask for; "" for the server's default. Raises InputError."""
    if arguments.target is None:
        return ""
    for name in bench_server.FLAGS:
        if name in arguments and name != "model":
            raise InputError(name, "is for a server of the bench's own; leave it out, or --target")
    asked: list[str] = getattr(arguments, "model", [""])
    if len(asked) > 1:
        raise InputError("model", f"one model is measured, and here are {len(asked)}")
    return asked[0]


@contextmanager
def _server(arguments: argparse.Namespace) -> Iterator[Measured]:
    from rerankd.bench_load import Measured  # noqa: PLC0415 - as in `run`

    if arguments.target is not None:
        yield asking.secured(arguments, Measured)
        return
    with bench_server.running(vars(arguments)) as (address, _):
        print(f"rerankd bench: no --target, so a server was started at {address}", file=sys.stderr)
        yield Measured(address)
