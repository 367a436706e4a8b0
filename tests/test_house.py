"""Who may import whom, and the other rules of ARCHITECTURE.md that a reader relies on without looking.

Each rule is a function from sources, a mapping of path to text, to the breaches found in them. It is run on
the tree, and then on a planted breach, so that a rule which has gone blind fails too.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from sources import (
    MADE,
    PACKAGE,
    Sources,
    imported,
    imported_rooms,
    package_modules,
    runtime_nodes,
    rust_code,
    rust_room,
    rust_sources,
    used_rooms,
)

ROOT = Path(__file__).resolve().parent.parent
Rule = Callable[[Sources], list[str]]

LONGEST = 450


def rooms(table: str) -> dict[str, set[str]]:
    """Lines of "room: what it may import", as {room: {names}}; several in a line, or on several."""
    found: dict[str, set[str]] = {}
    for line in re.split("[\n;]", table.strip()):
        room, _, names = line.partition(":")
        found.setdefault(room.strip(), set()).update(names.split())
    return found


# What each module of the package may import of the package. A new module takes its place here.
PYTHON_ROOMS = rooms("""
    errors:
    knobs:        errors
    settings:     knobs errors
    models:       errors
    deferred:
    ranking:      deferred errors
    agreement:
    samples:      errors
    table:        ranking errors
    completions:  _core ranking deferred errors
    pool:         _core errors
    cuda:         _core
    reranker:     _core cuda completions pool models ranking deferred errors
    heap:
    pulse:        reranker pool
    compare:      reranker samples agreement ranking errors
    compare_command: compare reranker samples table models settings knobs errors
    pem:          errors
    watch:
    auth:         watch errors
    tls:          pem watch errors
    status:       errors v1
    wire:         ranking errors v1
    outgoing:     wire ranking errors v1
    streams:      wire ranking errors v1
    target:       pem wire ranking errors
    client:       target outgoing streams wire ranking errors v1
    asking:       client auth settings errors
    observe:      tei v1
    metrics:      _core observe v1
    traces:       _core observe status v1
    telemetry:    metrics traces observe settings errors
    room:         errors
    inflight:
    symbols:
    logs:         settings
    guard:        inflight room status errors tei v1
    catalogue:    reranker errors
    limits:       reranker _core
    service:      catalogue limits reranker completions ranking status errors v1
    tei_service:  catalogue limits completions ranking errors tei
    health:       service
    http_shapes:
    http_bodies:  http_shapes ranking errors
    http_answers: http_shapes ranking
    http_errors:  http_shapes status errors
    http_calls:   http_errors errors
    http_guard:   http_answers http_calls http_errors http_shapes inflight observe ranking errors v1
    http_ranking: catalogue reranker completions room models http_answers http_bodies http_calls http_errors
    http_ranking: http_guard http_shapes limits ranking errors
    http_openapi: http_answers http_calls http_shapes models
    http:         http_ranking http_openapi http_guard http_errors http_answers catalogue reranker room
    http:         inflight limits metrics observe _core
    http_server:  errors
    server:       http_bodies tei tei_service limits logs guard inflight room catalogue service health http
    server:       symbols
    server:       http_server telemetry metrics auth tls watch heap pulse reranker pool models settings errors
    server:       v1
    bench_kinds: ; bench_text: ; bench_figures: ; bench: bench_kinds bench_text samples errors
    bench_result: bench bench_figures; bench_load: bench bench_figures target wire ranking v1
    bench_run:    bench bench_kinds bench_figures bench_result bench_load wire ranking errors
    bench_server: settings errors; bench_table: table; bench_plot: bench_figures bench_result errors
    bench_command: asking bench bench_kinds bench_load bench_result bench_run bench_server bench_plot
    bench_command: samples ranking knobs settings errors
    pack:         models settings errors _core
    cli:          server client asking bench_command bench_table compare_command pack reranker ranking table
    cli:          models settings errors _core
    __main__:     cli
    __init__:     client reranker pool ranking errors _core
""")
# The same for the crate; each file of model/ is a room. workers and pool are one thing in two files, so
# they may name each other: the threads run what the pool holds.
RUST_ROOMS = rooms("""
    error:
    batch:          error
    scheduler:      error
    histogram:      error
    kernels:        error
    completions:    error
    weights:        error
    tokenize:       error
    device:         kernels error
    model/config:   kernels error
    model/known:    kernels weights
    model/layers:   model/linear kernels weights error
    model/linear:   model/layers model/packed kernels weights error
    model/packed:   model weights error
    model/gpu:      model/config model/embeddings model/encoder model/head model/loader model/packed kernels
    model/gpu:      weights batch error
    model/loader:   model/config model/layers model/linear model/packed kernels weights error
    model/embeddings: model/config model/layers model/linear model/loader model/scratch
    model/embeddings: kernels weights batch error
    model/scratch:  model/config model/layers kernels error
    model/head:     model/config model/linear model/layers model/scratch kernels weights batch error
    model/encoder:  model/config model/known model/embeddings model/linear model/loader model/layers
    model/encoder:  model/scratch kernels weights batch error
    model:          model/config model/layers model/scratch model/head model/encoder
    model:          model/linear model/packed model/gpu
    model:          kernels weights batch error
    admission:      tokenize error
    request:        admission completions scheduler tokenize error
    workers:        pool request scheduler completions tokenize model kernels batch error
    pool:           workers request scheduler admission histogram completions tokenize model kernels
    pool:           batch error
    engine:         pool request scheduler admission completions tokenize model model/config model/gpu
    engine:         model/packed
    engine:         batch weights device kernels error
    py:             engine pool histogram request scheduler completions tokenize device error
    lib:            py error
""")
# target makes the clients' credentials, tls the server's, which only gRPC's own functions can. bench_load
# measures servers, not our client: it must see codes, count connections, send bytes made before.
GRPC_ROOMS = {
    "service",
    "tei_service",
    "guard",
    "server",
    "client",
    "target",
    "observe",
    "tls",
    "health",
    "bench_load",
}
# unwrap and expect outside tests, where no Result can help: the file, and why.
MAY_UNWRAP: dict[str, str] = {}


# ---- the rules --------------------------------------------------------------------------------------------


def python_imports(sources: Sources) -> list[str]:
    breaches: list[str] = []
    for module, tree in package_modules(sources).items():
        if module not in PYTHON_ROOMS:
            breaches.append(f"{module}: a new module; say in PYTHON_ROOMS what it may import")
            continue
        stray = sorted(imported_rooms(tree) - PYTHON_ROOMS[module])
        breaches += [f"{module} imports {name}" for name in stray]
    return breaches


def python_cycles(sources: Sources) -> list[str]:
    """Modules that import each other round about, even from within functions."""
    graph = {module: imported_rooms(tree) for module, tree in package_modules(sources).items()}
    done: set[str] = set()
    breaches: list[str] = []

    def visit(module: str, trail: list[str]) -> None:
        if module in trail:
            breaches.append(" -> ".join([*trail[trail.index(module) :], module]))
        elif module not in done:
            for name in sorted(graph.get(module, ())):
                visit(name, [*trail, module])
            done.add(module)

    for module in sorted(graph):
        visit(module, [])
    return breaches


def grpc_rooms(sources: Sources) -> list[str]:
    return [
        f"{module} imports {name}"
        for module, tree in package_modules(sources).items()
        if module not in GRPC_ROOMS
        for name in imported(tree)
        if re.match(r"grpc(_\w+)?(\.|$)", name)
    ]


def environment(sources: Sources) -> list[str]:
    """Python's environment is settings.py's; Rust reads none, but what cargo tells it when it is compiled."""
    reads = {"environ", "environb", "getenv", "getenvb"}
    breaches: list[str] = []
    for module, tree in package_modules(sources).items():
        names = {node.attr for node in runtime_nodes(tree) if isinstance(node, ast.Attribute)}
        names |= {name.rpartition(".")[2] for name in imported(tree) if name.startswith("os.")}
        if module != "settings" and names & reads:
            breaches.append(f"{module} uses {', '.join(sorted(names & reads))}")
    for path, code in rust_sources(sources).items():
        if re.search(r"\benv::|\boption_env!|\buse std::env\b|std::\{[^}]*\benv\b", code):
            breaches.append(f"{path} reads the environment")
    return breaches


def rust_imports(sources: Sources) -> list[str]:
    breaches: list[str] = []
    for path, code in rust_sources(sources).items():
        room = rust_room(path)
        if room not in RUST_ROOMS:
            breaches.append(f"{path}: a new room; say in RUST_ROOMS what it may use")
            continue
        stray = used_rooms(path, code, set(RUST_ROOMS)) - RUST_ROOMS[room]
        breaches += [f"{path} uses {name}" for name in sorted(stray)]
    return breaches


def confined(word: str, *places: str) -> Rule:
    """A rule: the word occurs in the crate only in files whose path begins so."""

    def rule(sources: Sources) -> list[str]:
        found = {path for path, code in rust_sources(sources).items() if re.search(word, code)}
        return [f"{path}: {word}" for path in sorted(found) if not path.startswith(places)]

    return rule


def no_tensor(sources: Sources) -> list[str]:
    rooms = {"tokenize", "batch", "scheduler", "kernels"}
    return [
        f"{path} knows of candle"
        for path, code in rust_sources(sources).items()
        if rust_room(path) in rooms and re.search(r"\bTensor\b|\bcandle", code)
    ]


def said_safe(lines: list[str], code: list[str], at: int) -> bool:
    """Whether the statement that has `unsafe` on line `at`, or what is right above it, says SAFETY; an
    `unsafe fn` may say it within, where it does what is unsafe.
    """
    if re.search(r"\bunsafe\s+(extern\b.*)?fn\b", code[at]):
        start = at
        while start and re.match(r"\s*(//|#\[)", lines[start - 1]):
            start -= 1
        # A declaration without a body is explained above it; else the first statements must be.
        return bool(re.search("safety", "\n".join(lines[start : at + 5]), re.IGNORECASE))
    while at >= 0:
        if "SAFETY" in lines[at]:
            return True
        above = code[at - 1].rstrip() if at else ""
        # Arms of one match may share a line above them.
        shared = above.endswith(",") and "unsafe" in above
        if above.endswith((";", "{", "}", ",")) and "SAFETY" not in lines[at - 1] and not shared:
            return False
        at -= 1
    return False


def safety(sources: Sources) -> list[str]:
    breaches: list[str] = []
    for path, code in rust_sources(sources).items():
        lines, stripped = sources[path].splitlines(), code.splitlines()
        for at, line in enumerate(stripped):
            if re.search(r"\bunsafe\b", line) and not said_safe(lines, stripped, at):
                breaches.append(f"{path}:{at + 1}: unsafe without a SAFETY line")
    return breaches


def no_unwrap(sources: Sources) -> list[str]:
    return [
        f"{path}:{at}: {line.strip()}"
        for path, code in rust_sources(sources).items()
        if path not in MAY_UNWRAP
        for at, line in enumerate(code.splitlines(), 1)
        if re.search(r"\.unwrap\(\)|\.expect\(", line)
    ]


def short_files(sources: Sources) -> list[str]:
    kinds = (".py", ".rs", ".proto")
    made = tuple(f"{PACKAGE}{room}/" for room in MADE)
    long = {path: len(text.splitlines()) for path, text in sources.items() if path.endswith(kinds)}
    return [f"{path} has {n} lines" for path, n in long.items() if n > LONGEST and not path.startswith(made)]


def documented_proto(sources: Sources) -> list[str]:
    """Every service, rpc, enum, value and field has a comment right above it or beside it. A field may go
    without where it is named after its message, which then speaks for it: `Usage usage`, `repeated Context
    contexts`.
    """
    declared = re.compile(r"\s*((service|rpc|enum)\b|(optional |repeated )?[\w.]+ \w+ = \d+;|[A-Z_]+ = \d+;)")
    named = re.compile(r"\s*(repeated )?(?P<type>[A-Z]\w*) (?P<name>\w+) = \d+;")
    breaches: list[str] = []
    for path, text in sources.items():
        lines = text.splitlines() if path.endswith(".proto") else []
        for at, line in enumerate(lines):
            field = named.match(line)
            if field and field["type"].lower().endswith(field["name"].removesuffix("s")):
                continue
            if declared.match(line) and "//" not in line and "//" not in lines[at - 1]:
                breaches.append(f"{path}:{at + 1}: no comment: {line.strip()}")
    return breaches


# ---- the tree, and what is planted ------------------------------------------------------------------------

RUST_ASM = r"\b(core|std)::arch\b"
RULES: dict[str, Rule] = {
    "python imports": python_imports,
    "python cycles": python_cycles,
    "grpc": grpc_rooms,
    "environment": environment,
    "rust imports": rust_imports,
    "pyo3": confined(r"\bpyo3\b", "rust/lib.rs", "rust/py.rs"),
    "intrinsics": confined(RUST_ASM, "rust/kernels/"),
    "unsafe": confined(r"\bunsafe\b", "rust/kernels/", "rust/weights.rs"),
    "safety": safety,
    "tensors": no_tensor,
    "unwrap": no_unwrap,
    "length": short_files,
    "proto": documented_proto,
}
PLANTED: list[tuple[str, str, str]] = [
    ("python imports", "python/rerankd/ranking.py", "from rerankd import reranker\n"),
    ("python imports", "python/rerankd/reranker.py", "from .service import RerankService\n"),
    ("python imports", "python/rerankd/service.py", "def late():\n    import rerankd.server\n"),
    ("python imports", "python/rerankd/novelty.py", "import json\n"),
    ("python cycles", "python/rerankd/errors.py", "def late():\n    from rerankd.ranking import Options\n"),
    ("grpc", "python/rerankd/reranker.py", "import grpc.aio\n"),
    ("grpc", "python/rerankd/wire.py", "def f():\n    from grpc_health.v1 import health_pb2\n"),
    ("environment", "python/rerankd/models.py", "import os\nHOME = os.environ['HOME']\n"),
    ("environment", "python/rerankd/cli.py", "from os import getenv\n"),
    ("environment", "rust/device.rs", 'fn f() { std::env::var("X"); }\n'),
    ("rust imports", "rust/kernels/mod.rs", "use crate::model::Model;\n"),
    ("rust imports", "rust/kernels/avx2.rs", "use crate::{error::Result, batch::Batch};\n"),
    ("rust imports", "rust/scheduler.rs", "fn f() { super::engine::f() }\n"),
    ("rust imports", "rust/model/layers.rs", "use super::encoder::Encoder;\n"),
    ("rust imports", "rust/tokenize/load.rs", "use crate::model::config::ModelConfig;\n"),
    ("rust imports", "rust/novelty.rs", "fn f() {}\n"),
    ("pyo3", "rust/engine.rs", "use pyo3::prelude::*;\n"),
    ("intrinsics", "rust/model/layers.rs", "use std::arch::x86_64::*;\n"),
    ("unsafe", "rust/engine.rs", "// SAFETY: none\nfn f() { unsafe { g() } }\n"),
    ("safety", "rust/weights.rs", "fn f() {\n    // It is fine.\n    unsafe { g() }\n}\n"),
    ("safety", "rust/weights.rs", "// SAFETY: of h.\nfn f() { unsafe { h() };\nunsafe { g() } }\n"),
    ("safety", "rust/kernels/mod.rs", "unsafe impl Send for X {}\n"),
    ("safety", "rust/kernels/mod.rs", "/// Adds.\nunsafe fn f() {\n    g();\n}\n"),
    ("tensors", "rust/batch.rs", "use candle_core::Tensor;\n"),
    ("tensors", "rust/tokenize/mod.rs", "fn f(x: &Tensor) {}\n"),
    ("unwrap", "rust/engine.rs", "fn f() { g().unwrap(); }\n"),
    ("unwrap", "rust/engine.rs", '#[cfg(test)]\nmod tests { }\nfn f() { g().expect("{"); }\n'),
    ("length", "rust/engine.rs", "//\n" * (LONGEST + 1)),
    ("proto", "proto/x.proto", "message M {\n  // Said.\n  string a = 1;\n  string b = 2;\n}\n"),
    ("proto", "proto/x.proto", "// Said.\nservice S {\n  rpc R(A) returns (B);\n}\n"),
]


def tree() -> dict[str, str]:
    folders = ("python/rerankd", "rust", "proto", "tests", "benches", "examples")
    files = (file for folder in folders for file in (ROOT / folder).rglob("*"))
    # What the examples' builds leave is not ours.
    made = re.compile(r"/(\.[^/]*|target|node_modules)/")
    kept = {
        file.relative_to(ROOT).as_posix(): file for file in files if file.suffix in (".py", ".rs", ".proto")
    }
    return {path: file.read_text("utf-8") for path, file in kept.items() if not made.search(path)}


@pytest.mark.parametrize("name", RULES)
def test_the_house_keeps_the_rule(name: str) -> None:
    assert RULES[name](tree()) == []


@pytest.mark.parametrize(("name", "path", "text"), PLANTED)
def test_a_planted_breach_is_found(name: str, path: str, text: str) -> None:
    sources = tree()
    before = RULES[name](sources)
    sources[path] = sources.get(path, "") + "\n" + text if name != "length" else text
    assert len(RULES[name](sources)) > len(before)


def test_every_rule_has_a_planted_breach() -> None:
    assert {name for name, _, _ in PLANTED} == set(RULES)


def test_comments_literals_and_test_modules_are_not_code() -> None:
    text = """
        // unsafe { }
        let a = "unsafe"; let b = r#"un"safe"#; let c = '"'; let d: &'static str = /* unsafe */ "\\"unsafe";
        #[cfg(test)]
        mod tests { fn f() { unsafe { x.unwrap() } } }
        safe
    """
    code = rust_code(text)
    assert "unsafe" not in code
    assert "unwrap" not in code
    assert "safe" in code
    assert "&'static str" in code
    assert code.count("\n") == text.count("\n")
