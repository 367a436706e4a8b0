"""Sources read for what they import and use: Python by its syntax trees, Rust by its words."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping

PACKAGE = "python/rerankd/"
Sources = Mapping[str, str]
"""Paths from the project's root, and what the files hold."""

MADE = ("v1", "tei")
"""Rooms of the package that protoc makes."""

# ---- reading Python ---------------------------------------------------------------------------------------


def python_module(path: str) -> str:
    """The module of the package that a path is: "service"; all of v1/ is "v1"."""
    inside = path.removeprefix(PACKAGE)
    return inside.split("/")[0].removesuffix(".py")


def package_modules(sources: Sources) -> dict[str, ast.Module]:
    files = {
        path: python_module(path) for path in sources if path.startswith(PACKAGE) and path.endswith(".py")
    }
    return {module: ast.parse(sources[path]) for path, module in files.items() if module not in MADE}


def runtime_nodes(tree: ast.AST) -> Iterator[ast.AST]:
    """All nodes but those under `if TYPE_CHECKING:`, which never run."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        yield node
        yield from runtime_nodes(node)


def imported(tree: ast.Module) -> Iterator[str]:
    """Dotted names of all that is imported; relative ones as from the package's root."""
    for node in runtime_nodes(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(filter(None, ["rerankd" if node.level else "", node.module]))
            yield from (f"{base}.{alias.name}" for alias in node.names)


def imported_rooms(tree: ast.Module) -> set[str]:
    """The package's own modules among them."""
    inside = (name.split(".")[1] for name in imported(tree) if name.startswith("rerankd."))
    return {name for name in inside if not name.startswith("__")}


# ---- reading Rust -----------------------------------------------------------------------------------------

OPAQUE = re.compile(
    r"""//[^\n]* | /\*.*?\*/ | b?r(\#*)".*?"\1 | b?"(?:\\.|[^"\\])*" | b?'(?:\\[^']*|[^'\\])'""",
    re.VERBOSE | re.DOTALL,
)


def rust_code(text: str) -> str:
    """The text with comments and literals blanked, line by line as it was, and its test modules too."""
    code = OPAQUE.sub(lambda match: re.sub(r"[^\n]", " ", match[0]), text)
    while test := re.search(r"#\[cfg\(test\)\]\s*(?:pub )?mod \w+\s*(;|\{)", code):
        end = test.end()
        depth = 1 if test[1] == "{" else 0
        while depth:
            brace = re.compile(r"[{}]").search(code, end)
            assert brace is not None, "a test module that does not end"
            depth += 1 if brace[0] == "{" else -1
            end = brace.end()
        code = code[: test.start()] + re.sub(r"[^\n]", " ", code[test.start() : end]) + code[end:]
    return code


def rust_sources(sources: Sources) -> dict[str, str]:
    """The crate's files, as code; the files that are tests altogether left out."""
    files = [path for path in sources if path.startswith("rust/") and path.endswith(".rs")]
    return {path: rust_code(sources[path]) for path in files if not re.search(r"(^|[/_])tests?\.rs$", path)}


def rust_room(path: str) -> str:
    """ "rust/tokenize/load.rs" is of the room tokenize; of model/, each file is one."""
    parts = path.removeprefix("rust/").removesuffix(".rs").removesuffix("/mod").split("/")
    return "/".join(parts[:2]) if parts[0] == "model" else parts[0]


def used_rooms(path: str, code: str, rooms: set[str]) -> set[str]:
    """Rooms that a file names: `crate::a::b`, `crate::{a, b}`, and `super::` where that leads to one."""
    above = path.removeprefix("rust/").removesuffix("/mod.rs").rsplit("/", 1)[:-1]
    named = set(re.findall(r"\bcrate::((?:\w+::)*\w+)", code))
    for group in re.findall(r"\bcrate::\{(.*?)\}\s*;", code, re.DOTALL):
        named |= set(re.findall(r"(?:^|,)\s*((?:\w+::)*\w+)", group))
    named |= {"::".join([*above, name]) for name in re.findall(r"\bsuper::((?:\w+::)*\w+)", code)}
    if path.endswith("model/mod.rs"):
        named |= {f"model::{name}" for name in re.findall(r"^\s*(?:pub )?use (\w+)::", code, re.MULTILINE)}
    used: set[str] = set()
    for name in named:
        parts = name.split("::")
        # lib.rs lends error's two names to the whole crate.
        parts[:1] = ["error"] if parts[0] in ("Error", "Result") else parts[:1]
        used |= {"/".join(parts[:2]), parts[0]} & rooms
    # Of model/config, "model" was named only on the way.
    used -= {room.split("/")[0] for room in used if "/" in room}
    return used - {rust_room(path)}
