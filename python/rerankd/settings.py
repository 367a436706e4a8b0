"""Every knob, declared once: its flag, variable, TOML key, documentation and check all come from here.

Flags beat RERANKD_* variables beat a TOML file (--config or RERANKD_CONFIG) beat the defaults. What is
unknown or not legal is an error that names it: a setting is never ignored and never corrected. Only this
module of the package reads the environment.
"""

from __future__ import annotations

import argparse
import difflib
import itertools
import json
import os
import re
import sys
from collections.abc import Collection, Iterable, Mapping
from dataclasses import Field, dataclass, fields
from typing import Any, Final, cast

from rerankd import knobs
from rerankd.errors import InputError
from rerankd.knobs import Knob

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # type: ignore[import-not-found, unused-ignore]

PREFIX: Final = "RERANKD_"
CONFIG_VARIABLE: Final = PREFIX + "CONFIG"
CLIENT: Final = "Client"
"""The group of what the commands that ask a server want to know, and a server does not."""

_PREAMBLE: Final = """\
# Settings

Made from python/rerankd/settings.py by `python -m rerankd.settings > docs/settings.md`.

A flag beats a variable; a variable beats the TOML file named by `--config FILE` or `RERANKD_CONFIG`; the file
beats the default. A variable with the `RERANKD_` prefix that is not below, an unknown key of the file, and a
value that is not legal stop the start with a sentence that names them. Several models in one variable have
commas between them. The flags are those of `rerankd serve`; what is under Client is for the commands that
have a `--target`. `rerankd serve --print-config` prints what would be in force, and where each value came
from, in a form that `--config` reads."""

# A file that is of no use without another one.
_NEEDS: Final = {
    "tls_cert": "tls_key",
    "tls_key": "tls_cert",
    "tls_client_ca": "tls_cert",
    "target_cert": "target_key",
    "target_key": "target_cert",
}


@dataclass(frozen=True)
class Settings:
    """What the operator wants. Every value is checked, wherever it comes from. Raises InputError."""

    model: tuple[str, ...] = knobs.knob(
        (),
        knobs.names(),
        "Model",
        "the embedded mini-en, a checkpoint's directory, or a hub id as org/name or org/name@revision; a "
        "server takes several, the first being its default; none given: mini-en",
    )
    alias: tuple[str, ...] = knobs.knob(
        (),
        knobs.aliases(),
        "Model",
        "another name that requests may ask for a model by, MODEL being spelled as in --model; a server "
        "takes several, as @cf/baai/bge-reranker-base=mini-en",
    )
    device: str = knobs.knob(
        "auto",
        knobs.choice("auto", "cpu", "cuda", pattern=r"cuda:[0-9]+", legal="one of auto, cpu, cuda, cuda:N"),
        "Model",
        "where to compute; cuda: on all GPUs; auto: there, if build and machine have any, else on the CPU",
    )
    dtype: str = knobs.knob(
        "auto",
        knobs.choice("auto", "f32", "bf16", "f16", "int8"),
        "Model",
        "the precision; auto: f16 on a GPU, else bf16 where faster, or f32; `rerankd compare` weighs int8",
    )
    threads: int | None = knobs.knob(
        None,
        knobs.or_auto(knobs.integer(1, 4096)),
        "Model",
        "compute threads, of all models together; auto: as many as the cgroup and the affinity mask leave",
    )
    kernels: str = knobs.knob(
        "auto",
        knobs.choice("auto", "scalar", "gemm", "avx2", "avx512"),
        "Model",
        "the instruction set to use; auto: the machine's best, AMX included; the others are for tests",
    )
    emulate: bool = knobs.knob(
        False,
        knobs.switch(),
        "Model",
        "compute a dtype that this machine has no instructions for all the same: it saves memory, not time",
    )
    max_tokens: int | None = knobs.knob(
        None,
        knobs.or_auto(knobs.integer(1)),
        "Model",
        "tokens per (query, context) pair, special tokens included; auto: the checkpoint's own limit",
    )
    grpc: str = knobs.knob(
        "0.0.0.0:50051", knobs.address(), "Network", "where gRPC listens; port 0 takes a free one"
    )
    http: str = knobs.knob(
        "0.0.0.0:8080", knobs.address(optional=True), "Network", 'where HTTP is answered; "" for nowhere'
    )
    health: str = knobs.knob(
        "0.0.0.0:50052",
        knobs.address(optional=True),
        "Network",
        'where the health service listens for probes, in plaintext; "" for nowhere',
    )
    reflection: bool = knobs.knob(False, knobs.switch(), "Network", "answer gRPC server reflection")
    tls_cert: str = knobs.knob(
        "",
        knobs.file(),
        "Security",
        "the server's certificate and those that vouch for it, in PEM: gRPC and HTTP then speak TLS alone; "
        "read again when it changes",
    )
    tls_key: str = knobs.knob(
        "", knobs.file(), "Security", "the certificate's private key, in PEM and not encrypted"
    )
    tls_client_ca: str = knobs.knob(
        "",
        knobs.file(),
        "Security",
        "the authorities, in PEM, one of which must vouch for a client's certificate; none: it needs none",
    )
    token_file: str = knobs.knob(
        "",
        knobs.file(),
        "Security",
        "the bearer tokens that are accepted, one per line, # before a comment; read again when it changes; "
        "none: no call needs one",
    )
    max_contexts: int = knobs.knob(1000, knobs.integer(1), "Limits", "contexts per request")
    max_message_bytes: int = knobs.knob(
        4 << 20, knobs.size(), "Limits", "bytes of one message, or of an HTTP request's body"
    )
    message_room_bytes: int = knobs.knob(
        128 << 20,
        knobs.size(),
        "Limits",
        "bytes of the messages of all Rerank calls, and of HTTP's bodies, together, counted as "
        "max_message_bytes each while they come in; calls wait for room, in their order",
    )
    max_streams: int = knobs.knob(
        256,
        knobs.integer(1),
        "Limits",
        "RerankStream and RerankBatch calls at a time; beyond, they are refused",
    )
    max_stream_bytes: int = knobs.knob(
        64 << 20,
        knobs.size(),
        "Limits",
        "bytes of all messages that one RerankStream call sends, which max_message_bytes does not bound",
    )
    max_deadline_seconds: float = knobs.knob(
        300.0,
        knobs.seconds(0.001),
        "Limits",
        "how long a request may take, a whole stream being one, if its caller gives it longer or no deadline",
    )
    queue_tokens: int = knobs.knob(
        1_000_000,
        knobs.integer(1),
        "Limits",
        "tokens that the requests in work hold together, of all models; beyond, requests are refused: "
        "docs/grpc.md tells what one holds, and the log at the start what memory it comes to",
    )
    wave_tokens: int = knobs.knob(
        256, knobs.integer(1), "Limits", "tokens computed at one go: fewer is fairer, more is faster"
    )
    gpu_wave_tokens: int = knobs.knob(16384, knobs.integer(1), "Limits", "the same on a GPU: docs/gpu.md")
    drain_seconds: float = knobs.knob(
        5.0,
        knobs.seconds(),
        "Shutdown",
        "after SIGTERM, serve on for this long while health says NOT_SERVING",
    )
    grace_seconds: float = knobs.knob(
        30.0, knobs.seconds(), "Shutdown", "after that, let the calls in flight finish for at most this long"
    )
    metrics: str = knobs.knob(
        "0.0.0.0:50053",
        knobs.address(optional=True),
        "Telemetry",
        'where Prometheus fetches /metrics, over plain HTTP; "" for nowhere',
    )
    otlp_endpoint: str = knobs.knob(
        "",
        knobs.endpoint(),
        "Telemetry",
        "the collector that traces go to, as OTLP over gRPC; needs `pip install rerankd[traces]`",
    )
    trace_ratio: float = knobs.knob(
        1.0,
        knobs.fraction(),
        "Telemetry",
        "the part of the calls to trace whose caller has not decided already by its traceparent",
    )
    log_level: str = knobs.knob(
        "info", knobs.choice("debug", "info", "warning", "error"), "Logs", "the least severe level logged"
    )
    log_format: str = knobs.knob(
        "text", knobs.choice("text", "json"), "Logs", "a line of text, or of JSON, per event"
    )
    target_tls: bool = knobs.knob(
        False,
        knobs.switch(),
        CLIENT,
        "speak TLS with --target, by the authorities that gRPC knows of itself; the files below say so too",
    )
    target_ca: str = knobs.knob(
        "",
        knobs.file(),
        CLIENT,
        "the authorities, in PEM, one of which must vouch for the server's certificate",
    )
    target_cert: str = knobs.knob(
        "", knobs.file(), CLIENT, "the certificate to show a server that asks for one, in PEM"
    )
    target_key: str = knobs.knob(
        "", knobs.file(), CLIENT, "that certificate's private key, in PEM and not encrypted"
    )
    target_token_file: str = knobs.knob(
        "", knobs.file(), CLIENT, "the bearer token to send: the first in this file, as token_file has them"
    )

    def __post_init__(self) -> None:
        for f in fields(self):
            object.__setattr__(self, f.name, _checked(f, getattr(self, f.name), "the argument"))
        for name, other in itertools.combinations(("metrics", "health", "http", "grpc"), 2):
            if (address := getattr(self, name)) == getattr(self, other) and address[-2:] not in ("", ":0"):
                raise InputError(name, f"is {address!r}, as {other} is; give it another port")
        for name, needed in _NEEDS.items():
            if getattr(self, name) and not getattr(self, needed):
                raise InputError(name, f"is of no use without {needed}; give that file too")

    def aliases(self, models: Collection[str]) -> dict[str, str]:
        """Each alias, and which of the models to be served it means. Raises InputError for a bad one."""
        named: dict[str, str] = {}
        for each in self.alias:
            name, _, model = each.partition("=")
            if name in named:
                raise InputError("alias", f"{name!r} is given twice; each name means one model")
            if model not in models:
                served = ", ".join(models)
                raise InputError(
                    "alias", f"{name!r} is to mean {model!r}, which is not served; models: {served}"
                )
            named[name] = model
        return named


def declared() -> dict[str, Knob]:
    """Every knob by its name, in the order declared."""
    return {f.name: _knob_of(f) for f in fields(Settings)}


def of_server() -> list[str]:
    """The names of what a server is told."""
    return [name for name, knob in declared().items() if knob.group != CLIENT]


def of_client() -> list[str]:
    """The names of what a command that asks a server is told."""
    return [name for name, knob in declared().items() if knob.group == CLIENT]


def flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def variable(name: str) -> str:
    return PREFIX + name.upper()


def default(name: str) -> str:
    """The default as a flag or a variable would say it."""
    f = next(f for f in fields(Settings) if f.name == name)
    return _knob_of(f).kind.show(f.default)


def add_arguments(parser: argparse.ArgumentParser, only: Collection[str] | None = None) -> None:
    """Adds --config and a flag for every knob, or for those of `only`.

    A flag that is not given leaves no trace in the namespace: what is there was said, and beats all else.
    """
    groups: dict[str, argparse._ArgumentGroup] = {}
    for name, knob in declared().items():
        if only is not None and name not in only:
            continue
        if knob.group not in groups:
            groups[knob.group] = parser.add_argument_group(knob.group.lower())
        text = f"{knob.about} [{variable(name)}; default: {default(name) or 'none'}]".replace("%", "%%")
        options: dict[str, Any] = {"dest": name, "default": argparse.SUPPRESS, "help": text}
        if isinstance(_default_of(name), bool):
            options["action"] = argparse.BooleanOptionalAction
        else:
            options["metavar"] = knob.kind.metavar
            if isinstance(_default_of(name), tuple):
                options["action"] = "append"
        groups[knob.group].add_argument(flag(name), **options)
    about = f"a TOML file of settings; flags and variables beat it [{CONFIG_VARIABLE}]"
    parser.add_argument("--config", metavar="FILE", default=argparse.SUPPRESS, help=about)


def resolve(
    flags: Mapping[str, object] | None = None, environ: Mapping[str, str] | None = None
) -> tuple[Settings, dict[str, str]]:
    """The settings, and where each came from (`--threads`, `RERANKD_THREADS`, a file's path, `default`).

    `flags` holds what was given on the command line, by the knob's name; `environ` is the process's own where
    None. Raises InputError for an unknown variable or key, and for a value that is not legal.
    """
    flags = flags or {}
    environ = os.environ if environ is None else environ
    _refuse_unknown_variables(environ)
    path, path_source = flags.get("config"), "--config"
    if path is None:
        path, path_source = environ.get(CONFIG_VARIABLE), CONFIG_VARIABLE
    file = {} if path is None else _read_file(str(path), path_source)
    values: dict[str, Any] = {}
    sources: dict[str, str] = {}
    for f in fields(Settings):
        for source, layer, key in (
            (flag(f.name), flags, f.name),
            (variable(f.name), environ, variable(f.name)),
            (str(path), file, f.name),
        ):
            if key in layer:
                values[f.name], sources[f.name] = _checked(f, layer[key], source), source
                break
        else:
            sources[f.name] = "default"
    return Settings(**values), sources


def from_flags(namespace: argparse.Namespace) -> Settings:
    """The settings for a parsed command line. Raises InputError."""
    return resolve(vars(namespace))[0]


def to_toml(settings: Settings, sources: Mapping[str, str]) -> str:
    """The settings as a file that --config reads, each line with where its value came from."""
    lines = []
    for name in declared():
        value = getattr(settings, name)
        if value is None:
            value = "auto"
        elif isinstance(value, tuple):
            value = list(value)
        # JSON's strings, numbers, booleans and lists of strings are TOML's as well.
        lines.append((f"{name} = {json.dumps(value)}", sources[name]))
    width = max(len(text) for text, _ in lines)
    return "".join(f"{text:<{width}}  # {source}\n" for text, source in lines)


def to_markdown() -> str:
    """docs/settings.md, which a test keeps current."""
    parts = [_PREAMBLE]
    group = ""
    for name, knob in declared().items():
        if knob.group != group:
            group = knob.group
            parts.append(f"\n## {group}\n\n| flag | variable | TOML key | default | legal | what it does |")
            parts.append("|---|---|---|---|---|---|")
        spelled = f"{flag(name)} {knob.kind.metavar}".strip()
        shown = f"`{default(name)}`" if default(name) else "none"
        cells = (f"`{spelled}`", f"`{variable(name)}`", f"`{name}`", shown, knob.kind.legal, knob.about)
        parts.append(f"| {' | '.join(cells)} |")
    return "\n".join(parts) + "\n"


def colour_allowed() -> bool:
    """Whether the user's environment lets a terminal be coloured (NO_COLOR, TERM=dumb)."""
    return not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def quiet_grpc() -> None:
    """Has gRPC's own log in this process say errors alone, unless the user's environment says otherwise.

    To be called before gRPC is imported. It writes a line of its own form to the standard error for every
    handshake that fails, and the port of a server meets those that anybody likes to make.
    """
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")


def _knob_of(f: Field[Any]) -> Knob:
    return cast(Knob, f.metadata["knob"])


def _default_of(name: str) -> object:
    return next(f.default for f in fields(Settings) if f.name == name)


def _checked(f: Field[Any], raw: object, source: str) -> Any:
    kind = _knob_of(f).kind
    try:
        return kind.parse(raw)
    except ValueError:
        raise InputError(f.name, f"{raw!r} (from {source}) is not legal; it must be {kind.legal}") from None


def _refuse_unknown_variables(environ: Mapping[str, str]) -> None:
    known = {variable(name) for name in declared()} | {CONFIG_VARIABLE}
    for name in sorted(environ):
        if not name.startswith(PREFIX) or name in known:
            continue
        # A Service called rerankd makes Kubernetes put such variables into every pod of its namespace.
        if re.fullmatch(r"RERANKD_(SERVICE_(HOST|PORT.*)|PORT(_.*)?)", name):
            why = "Kubernetes makes it for a Service named rerankd; the pod needs enableServiceLinks: false"
            raise InputError(name, f"no such setting; {why}")
        raise InputError(name, "no such setting" + _nearest(name, known))


def _read_file(path: str, source: str) -> dict[str, Any]:
    try:
        with open(path, "rb") as file:
            values: dict[str, Any] = tomllib.load(file)
    except OSError as error:
        raise InputError("config", f"can't read {path!r} (from {source}): {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError("config", f"{path!r} (from {source}) is not TOML: {error}") from None
    for key in values:
        if key not in declared():
            raise InputError(key, f"no such setting in {path!r}" + _nearest(key, declared()))
    return values


def _nearest(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {close[0]}?" if close else "; docs/settings.md lists those that there are"


if __name__ == "__main__":
    sys.stdout.write(to_markdown())
