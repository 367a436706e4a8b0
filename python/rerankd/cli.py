"""The `rerankd` command: serve, rank, compare, bench, pack, models.

Exit codes: 0; 2 for a mistake of usage or input; 1 for all else that failed; 130 for Ctrl-C.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import os
import re
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NoReturn

from rerankd import asking, bench_command, bench_table, compare_command, models, pack, settings, table
from rerankd.errors import InputError, RerankdError

if TYPE_CHECKING:
    from rerankd.client import ServedModel
    from rerankd.ranking import Ranking

# The settings that say what computes, for `rank` in this process.
_LOCAL: Final = ("model", "device", "dtype", "threads", "kernels", "emulate", "max_tokens")
_PACKED: Final = ("dtype", "kernels", "emulate")
_HERE_ONLY: Final = ("device", "dtype", "threads", "kernels", "emulate")

_RANK_ABOUT: Final = """\
Ranks the lines of FILE, or of the standard input, by relevance to QUERY, best first. Blank lines are left
out. By default a model in this process does it; with --target, a server does.
"""
_RANK_OUTPUT: Final = """\
output:
  on a terminal, a table; else a line per result, SCORE<tab>TEXT; with --json, one object:
  {"query", "model", "results": [{"id", "line", "score", "text", "truncated"}], "unscored": [id],
   "usage": {"contexts", "tokens", "truncated"},
   "timing": {"queue_us", "tokenize_us", "compute_us", "total_us"}}
  where id counts the lines that are not blank from 0, and line counts all lines from 1.
"""
_MODELS_ABOUT: Final = """\
Lists the models that are embedded in the package, the cross-encoders in the hub's local cache, and with
--target those that a server serves. A directory that holds a checkpoint is a model too: give its path.
"""
_SERVE_ABOUT: Final = """\
Serves models over gRPC. SIGTERM and SIGINT stop it gracefully; a second one stops it at once.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    try:
        if arguments.version:
            from importlib import metadata  # noqa: PLC0415 - slow to import, as numpy is, and rarely needed

            print(f"rerankd {metadata.version('rerankd')}")
        elif arguments.command is None:
            parser.print_help()
        else:
            return _run(arguments)
        return _flushed()
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # The reader has had enough. Python would complain once more when it closes stdout.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _run(arguments: argparse.Namespace) -> int:
    settings.quiet_grpc()
    try:
        code: int = arguments.run(arguments)
        return code or _flushed()
    except RerankdError as error:
        _flushed()
        sentence = table.printable(" ".join(str(error).split()))
        print(f"rerankd {arguments.command}: {sentence}", file=sys.stderr)
        return 2 if isinstance(error, InputError) else 1


def _flushed() -> int:
    """Writes what is buffered now, while a broken pipe can still be caught."""
    sys.stdout.flush()
    return 0


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, without the whole usage before it."""

    def __init__(self, **options: Any) -> None:
        super().__init__(allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter, **options)

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message} (see {self.prog} --help)\n")


def _parser() -> _Parser:
    parser = _Parser(
        prog="rerankd",
        description="Which of a search system's candidates are relevant to a query: a cross-encoder, served.",
        epilog="`rerankd COMMAND --help` says more.",
    )
    parser.add_argument("--version", action="store_true", help="print the version")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")

    serve = commands.add_parser("serve", help="serve models over gRPC", description=_SERVE_ABOUT)
    settings.add_arguments(serve, only=settings.of_server())
    serve.add_argument(
        "--print-config", action="store_true", help="print the settings, and where each comes from, and stop"
    )
    serve.set_defaults(run=_serve)

    rank = commands.add_parser(
        "rank", help="rank lines of text", description=_RANK_ABOUT, epilog=_RANK_OUTPUT
    )
    _add_rank_arguments(rank)
    settings.add_arguments(rank, only=(*_LOCAL, *settings.of_client()))
    rank.set_defaults(run=_rank, parser=rank)

    compare = commands.add_parser(
        "compare",
        help="measure a precision on your own queries",
        description=compare_command.ABOUT,
        epilog=compare_command.OUTPUT,
    )
    compare_command.add_arguments(compare)
    settings.add_arguments(compare, only=_LOCAL)
    compare.set_defaults(run=_compare)

    bench = commands.add_parser(
        "bench",
        help="put a server under load",
        description=bench_command.ABOUT,
        epilog=bench_command.OUTPUT,
    )
    bench_command.add_arguments(bench)
    bench.set_defaults(run=_bench)

    packing = commands.add_parser(
        "pack", help="save a checkpoint as the kernels take it", description=pack.ABOUT
    )
    pack.add_arguments(packing)
    settings.add_arguments(packing, only=_PACKED)
    packing.set_defaults(run=_pack)

    listing = commands.add_parser(
        "models", help="list the models that are embedded, cached, served", description=_MODELS_ABOUT
    )
    asking.add_arguments(listing)
    settings.add_arguments(listing, only=settings.of_client())
    listing.add_argument("--json", action="store_true", help="one JSON object: embedded, cached, served")
    listing.set_defaults(run=_models)
    return parser


def _add_rank_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("query", metavar="QUERY", help="the question")
    parser.add_argument(
        "file", metavar="FILE", nargs="?", default="-", help="text in UTF-8, a candidate per line; -: stdin"
    )
    parser.add_argument("--top-k", type=int, metavar="K", help="show at most the K best")
    parser.add_argument("--min-score", type=float, metavar="S", help="leave out what scores below S")
    parser.add_argument("--score", default="sigmoid", metavar="SCALE", help="sigmoid, the default, or logit")
    parser.add_argument(
        "--overflow",
        default="truncate",
        metavar="WAY",
        help="what happens to a pair past the token limit: truncate, the default, takes from the longer; "
        "truncate_context from the context alone; chunk reads it in windows; reject refuses",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    asking.add_arguments(parser)


def _serve(arguments: argparse.Namespace) -> int:
    resolved, sources = settings.resolve(vars(arguments))
    if arguments.print_config:
        if resolved.model:
            resolved.aliases(resolved.model)  # a bad one is refused here as by the start itself
        sys.stdout.write(settings.to_toml(resolved, sources))
        return 0
    from rerankd import server  # noqa: PLC0415 - gRPC is for those who need it

    return server.run(resolved)


def _rank(arguments: argparse.Namespace) -> int:
    asking.refuse_without_target(arguments)
    numbers, texts = _read_lines(arguments.file, "the candidates, one per line")
    try:
        ranking = _ranked_there(arguments, texts) if arguments.target else _ranked_here(arguments, texts)
    except InputError as error:
        found = re.match(r"contexts\[([0-9]+)\]", error.field)
        raise InputError(f"line {numbers[int(found[1])]}", error.message) if found else error from None
    if arguments.json:
        _print_json(_rank_object(arguments.query, ranking, numbers, texts))
    elif sys.stdout.isatty():
        _print_ranking(arguments, ranking, texts)
    else:
        for result in ranking:
            _print(f"{result.score:.6f}\t{texts[result.id]}")
    return 0


def _pack(arguments: argparse.Namespace) -> int:
    done = pack.run(arguments)
    what = f"{done.bytes / 1e6:.0f} MB, {done.dtype}, for {done.kernels}"
    _print(f"{done.directory}: {what}; rerankd serve --model {done.directory}")
    return 0


def _ranked_here(arguments: argparse.Namespace, texts: list[str]) -> Ranking:
    resolved = settings.from_flags(arguments)
    if len(resolved.model) > 1:
        raise InputError("model", f"one model ranks, and here are {len(resolved.model)}")
    from rerankd.reranker import Reranker  # noqa: PLC0415 - the engine is for those who need it

    name = resolved.model[0] if resolved.model else models.DEFAULT
    with Reranker(
        name,
        resolved.device,
        resolved.dtype,
        resolved.threads,
        resolved.max_tokens,
        kernels=resolved.kernels,
        emulate=resolved.emulate,
    ) as reranker:
        return reranker.rank(arguments.query, texts, **_options(arguments))


def _ranked_there(arguments: argparse.Namespace, texts: list[str]) -> Ranking:
    for name in _HERE_ONLY:
        if name in arguments:
            arguments.parser.error(f"{settings.flag(name)} is for ranking in this process, not for --target")
    resolved, sources = settings.resolve(vars(arguments))
    # Variables and the file say what this machine serves; a server is asked for what the flags say.
    model = resolved.model if sources["model"] == settings.flag("model") else ()
    limit = resolved.max_tokens if sources["max_tokens"] == settings.flag("max_tokens") else None
    if len(model) > 1:
        raise InputError("model", f"one model ranks, and here are {len(model)}")
    with asking.client(arguments) as client:
        return client.rank(
            arguments.query, texts, **_options(arguments), max_tokens=limit, model=model[0] if model else None
        )


def _options(arguments: argparse.Namespace) -> dict[str, Any]:
    return {name: getattr(arguments, name) for name in ("top_k", "min_score", "score", "overflow")}


def _compare(arguments: argparse.Namespace) -> int:
    numbers, lines = _read_lines(arguments.file, "the queries, a JSON object per line")
    comparison = compare_command.run(arguments, numbers, lines)
    if arguments.json:
        _print_json(dataclasses.asdict(comparison))
        return 0
    for line in compare_command.lines(comparison, _screen_or_pipe()):
        print(line)
    return 0


def _bench(arguments: argparse.Namespace) -> int:
    read = _read_lines(arguments.file, "the queries, a JSON object per line") if arguments.file else ([], [])
    result = bench_command.run(arguments, *read)
    if arguments.json == "-":
        _print_json(dataclasses.asdict(result))
    else:
        for line in bench_table.lines(result, _screen_or_pipe()):
            print(line)
    return 130 if result.interrupted else 0


def _read_lines(file: str, what: str) -> tuple[list[int], list[str]]:
    """The lines that are not blank, and their numbers from 1. what: a person at a terminal is asked for."""
    try:
        if file != "-":
            data = Path(file).read_bytes()
        else:
            if sys.stdin.isatty():
                print(f"Type {what}; Ctrl-D ends them.", file=sys.stderr)
            data = sys.stdin.buffer.read()
    except OSError as error:
        raise InputError("FILE", f"can't read {file!r}: {error.strerror}") from None
    try:
        lines = data.decode("utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        at = data.count(b"\n", 0, error.start) + 1
        raise InputError("FILE", f"line {at} of {file!r} is not UTF-8") from None
    kept = [(number, line.rstrip("\r")) for number, line in enumerate(lines, 1) if line.strip()]
    return [number for number, _ in kept], [line for _, line in kept]


def _rank_object(query: str, ranking: Ranking, numbers: list[int], texts: list[str]) -> dict[str, Any]:
    return {
        "query": query,
        "model": ranking.model,
        "results": [
            {
                "id": result.id,
                "line": numbers[result.id],
                "score": result.score,
                "text": texts[result.id],
                "truncated": result.truncated,
            }
            for result in ranking
        ],
        "unscored": list(ranking.unscored),
        "usage": dataclasses.asdict(ranking.usage),
        "timing": dataclasses.asdict(ranking.timing),
    }


def _print_ranking(arguments: argparse.Namespace, ranking: Ranking, texts: list[str]) -> None:
    screen = _screen()
    logits = arguments.score == "logit"
    rows = [
        (
            _sigmoid(result.score) if logits else result.score,
            f"{result.score:+.3f}" if logits else f"{result.score:.4f}",
            texts[result.id],
        )
        for result in ranking
    ]
    usage, milliseconds = ranking.usage, ranking.timing.total_us / 1000
    summary = [_count(usage.contexts, "context"), _count(usage.tokens, "token"), f"{milliseconds:.1f} ms"]
    if usage.truncated:
        summary.append(f"{usage.truncated} truncated")
    summary.append(ranking.model)
    print(screen.style("bold", screen.fit(arguments.query, screen.columns)))
    for line in table.bars(screen, rows):
        print(line)
    print(screen.style("dim", screen.fit(screen.join(summary), screen.columns)))


def _models(arguments: argparse.Namespace) -> int:
    asking.refuse_without_target(arguments)
    embedded, cached = models.embedded(), models.cached()
    served = None if arguments.target is None else _served(arguments)
    if arguments.json:
        listing: dict[str, Any] = {
            "embedded": [_checkpoint_object(checkpoint) for checkpoint in embedded],
            "cached": [_checkpoint_object(checkpoint) for checkpoint in cached],
        }
        if served is not None:
            listing["served"] = [dataclasses.asdict(model) for model in served]
        _print_json(listing)
        return 0
    rows = [("embedded", each.name, _default_mark(each.name == models.DEFAULT)) for each in embedded]
    rows += [("cached", each.name, each.revision) for each in cached]
    for model in served or ():
        what = f"{model.architecture}, {model.device}, {model.dtype}, {model.max_tokens} tokens per pair"
        rows.append(("served", model.name, what + (", default" if model.is_default else "")))
    if sys.stdout.isatty():
        for line in table.columns(_screen(), rows):
            print(line.rstrip())
    else:
        for row in rows:
            _print("\t".join(row))
    return 0


def _served(arguments: argparse.Namespace) -> list[ServedModel]:
    with asking.client(arguments) as client:
        return client.list_models()


def _checkpoint_object(checkpoint: models.Checkpoint) -> dict[str, Any]:
    return {
        "name": checkpoint.name,
        "aliases": list(checkpoint.aliases),
        "directory": str(checkpoint.directory),
        "revision": checkpoint.revision,
    }


def _default_mark(is_default: bool) -> str:
    return "default" if is_default else ""


def _screen() -> table.Screen:
    columns = shutil.get_terminal_size().columns
    return table.Screen.of(columns, sys.stdout.encoding, colour=settings.colour_allowed())


def _screen_or_pipe() -> table.Screen:
    """The terminal; for a pipe, a screen that cuts nothing."""
    screen = _screen()
    return screen if sys.stdout.isatty() else dataclasses.replace(screen, columns=1000, colour=False)


def _print_json(value: object) -> None:
    # Escapes are JSON too, and get through any encoding.
    _print(json.dumps(value, ensure_ascii=not table.can_show("é漢😀", sys.stdout.encoding)))


def _print(line: str) -> None:
    """Prints for a pipe; what its encoding can't say becomes a question mark rather than a traceback."""
    encoding = sys.stdout.encoding or "utf-8"
    print(line if table.can_show(line, encoding) else line.encode(encoding, "replace").decode(encoding))


def _count(number: int, what: str) -> str:
    return f"{number} {what}" + ("" if number == 1 else "s")


def _sigmoid(logit: float) -> float:
    return 1 / (1 + math.exp(-logit)) if logit >= 0 else math.exp(logit) / (1 + math.exp(logit))
