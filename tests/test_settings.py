"""Settings: what beats what, what is refused and how, and the page made from the declarations."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rerankd import knobs, settings
from rerankd.errors import InputError
from rerankd.settings import Settings

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # type: ignore[import-not-found, unused-ignore]

DOCUMENT = Path(__file__).parent.parent / "docs" / "settings.md"


def resolve(
    *flags: str, environ: dict[str, str] | None = None, only: tuple[str, ...] | None = None
) -> tuple[Settings, dict[str, str]]:
    parser = argparse.ArgumentParser(exit_on_error=False)
    settings.add_arguments(parser, only)
    return settings.resolve(vars(parser.parse_args(flags)), environ or {})


def test_defaults() -> None:
    resolved, sources = resolve()
    assert resolved == Settings()
    assert set(sources.values()) == {"default"}
    assert resolved.model == ()
    assert (resolved.threads, resolved.max_tokens) == (None, None)
    assert resolved.max_message_bytes == 4 * 1024 * 1024


def test_a_flag_beats_a_variable_beats_the_file_beats_the_default(tmp_path: Path) -> None:
    file = tmp_path / "rerankd.toml"
    file.write_text('threads = 2\nmax_contexts = 20\ngrpc = "127.0.0.1:2"\n')
    environ = {"RERANKD_THREADS": "3", "RERANKD_MAX_CONTEXTS": "30", "PATH": "/bin"}
    resolved, sources = resolve("--config", str(file), "--threads", "4", environ=environ)
    assert (resolved.threads, resolved.max_contexts, resolved.grpc) == (4, 30, "127.0.0.1:2")
    assert sources["threads"] == "--threads"
    assert sources["max_contexts"] == "RERANKD_MAX_CONTEXTS"
    assert sources["grpc"] == str(file)
    assert sources["health"] == "default"


def test_the_variable_names_the_file_unless_the_flag_does(tmp_path: Path) -> None:
    one, two = tmp_path / "one.toml", tmp_path / "two.toml"
    one.write_text("threads = 1")
    two.write_text("threads = 2")
    environ = {"RERANKD_CONFIG": str(one)}
    assert resolve(environ=environ)[0].threads == 1
    assert resolve("--config", str(two), environ=environ)[0].threads == 2


def test_several_models(tmp_path: Path) -> None:
    file = tmp_path / "rerankd.toml"
    file.write_text('model = ["mini-en", "BAAI/bge-reranker-base"]')
    both = ("mini-en", "BAAI/bge-reranker-base")
    assert resolve("--model", both[0], "--model", both[1])[0].model == both
    assert resolve(environ={"RERANKD_MODEL": "mini-en, BAAI/bge-reranker-base"})[0].model == both
    assert resolve("--config", str(file))[0].model == both
    # A flag's models are all there are; those of the file are not added to them.
    assert resolve("--config", str(file), "--model", "./here")[0].model == ("./here",)


def test_a_flag_can_say_what_the_default_is() -> None:
    environ = {"RERANKD_THREADS": "3", "RERANKD_REFLECTION": "true"}
    resolved, _ = resolve("--threads", "auto", "--no-reflection", environ=environ)
    assert resolved.threads is None
    assert resolved.reflection is False


def test_an_unknown_variable_is_an_error_that_suggests() -> None:
    with pytest.raises(
        InputError, match=r"^RERANKD_TREADS: no such setting; did you mean RERANKD_THREADS\?$"
    ):
        resolve(environ={"RERANKD_TREADS": "3"})
    with pytest.raises(InputError, match=r"^RERANKD_XYZZY: no such setting"):
        resolve(environ={"RERANKD_XYZZY": ""})


@pytest.mark.parametrize("name", ["RERANKD_PORT", "RERANKD_SERVICE_HOST", "RERANKD_PORT_50051_TCP_ADDR"])
def test_a_variable_of_kubernetes_own_is_explained(name: str) -> None:
    with pytest.raises(InputError, match=f"{name}: .*enableServiceLinks: false"):
        resolve(environ={name: "tcp://10.0.0.1:50051"})


def test_an_unknown_key_is_an_error_that_suggests(tmp_path: Path) -> None:
    file = tmp_path / "rerankd.toml"
    file.write_text("max-contexts = 3")
    with pytest.raises(
        InputError, match=r"^max-contexts: no such setting in '.*'; did you mean max_contexts\?$"
    ):
        resolve("--config", str(file))


@pytest.mark.parametrize(
    ("content", "says"), [(None, "can't read"), (b"threads = ", "is not TOML"), (b"\xff", "is not TOML")]
)
def test_a_file_that_cannot_be_read(tmp_path: Path, content: bytes | None, says: str) -> None:
    file = tmp_path / "rerankd.toml"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(InputError, match=says):
        resolve(environ={"RERANKD_CONFIG": str(file)})


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("threads", "0"),
        ("threads", "two"),
        ("threads", "1.5"),
        ("threads", ""),
        ("max_contexts", "auto"),
        ("max_contexts", str(1 << 31)),
        ("device", "gpu"),
        ("device", "cuda:"),
        ("dtype", "float32"),
        ("grpc", ""),
        ("grpc", "50051"),
        ("grpc", "localhost:99999"),
        ("grpc", "::1:50051"),
        ("health", "here"),
        ("max_message_bytes", "0"),
        ("max_message_bytes", "16 MB"),
        ("max_message_bytes", "2GiB"),
        ("metrics", "50053"),
        ("http", "8080"),
        ("otlp_endpoint", "localhost:4317"),
        ("otlp_endpoint", "grpc://localhost:4317"),
        ("otlp_endpoint", "http://localhost:4317/v1/traces"),
        ("trace_ratio", "1.1"),
        ("trace_ratio", "-0.1"),
        ("trace_ratio", "nan"),
        ("drain_seconds", "-1"),
        ("drain_seconds", "inf"),
        ("drain_seconds", "nan"),
        ("max_deadline_seconds", "0"),
        ("max_deadline_seconds", "none"),
        ("tls_cert", " "),
        ("token_file", "tokens\0"),
        ("log_level", "INFO"),
        ("model", "mini-en,,x"),
        ("model", " "),
    ],
)
def test_what_is_not_legal_names_the_knob_the_source_and_what_is(name: str, text: str) -> None:
    with pytest.raises(InputError) as caught:
        resolve(environ={settings.variable(name): text})
    assert caught.value.field == name
    assert f"{text!r} (from {settings.variable(name)})" in caught.value.message
    assert settings.declared()[name].kind.legal in caught.value.message


@pytest.mark.parametrize(
    "line",
    [
        "threads = true",
        "threads = 1.0",
        "max_contexts = [1]",
        "grpc = 50051",
        "reflection = 1",
        "reflection = 'yes'",
        "drain_seconds = true",
        "drain_seconds = 1979-05-27",
        "model = [1]",
        "model = {a = 1}",
        "max_message_bytes = 16.5",
        "max_message_bytes = true",
        "log_level = 1",
        "token_file = ['tokens']",
        "tls_key = false",
    ],
)
def test_a_value_of_the_wrong_type_in_the_file(tmp_path: Path, line: str) -> None:
    file = tmp_path / "rerankd.toml"
    file.write_text(line)
    with pytest.raises(InputError, match=f"^{line.split(maxsplit=1)[0]}: .* is not legal; it must be"):
        resolve("--config", str(file))


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("grpc", "[::]:50051", "[::]:50051"),
        ("grpc", "rerankd.example:0", "rerankd.example:0"),
        ("health", "", ""),
        ("metrics", "", ""),
        ("http", "", ""),
        ("otlp_endpoint", "", ""),
        ("otlp_endpoint", "https://collector.example:4317", "https://collector.example:4317"),
        ("otlp_endpoint", "http://[::1]:4317", "http://[::1]:4317"),
        ("trace_ratio", "0.05", 0.05),
        ("device", "cuda:1", "cuda:1"),
        ("max_message_bytes", "64KiB", 65536),
        ("max_message_bytes", "1 GiB", 1 << 30),
        ("drain_seconds", "0", 0.0),
        ("grace_seconds", "1e3", 1000.0),
        ("reflection", "1", True),
        ("reflection", "false", False),
        ("queue_tokens", "2_000_000", 2_000_000),
        ("max_deadline_seconds", "0.5", 0.5),
        ("token_file", "/run/secrets/my tokens", "/run/secrets/my tokens"),
        ("token_file", "", ""),
    ],
)
def test_what_is_legal(name: str, text: str, value: object) -> None:
    assert getattr(resolve(environ={settings.variable(name): text})[0], name) == value


def test_settings_made_in_python_are_checked_too() -> None:
    assert Settings(model=("mini-en",), drain_seconds=0).drain_seconds == 0.0
    with pytest.raises(InputError, match="threads: 0 "):
        Settings(threads=0)
    with pytest.raises(InputError, match=r"health: is .*, as grpc is"):
        Settings(grpc="127.0.0.1:5", health="127.0.0.1:5")
    for name in ("grpc", "http", "health"):
        with pytest.raises(InputError, match=rf"metrics: is .*, as {name} is"):
            Settings(**{name: "127.0.0.1:5", "metrics": "127.0.0.1:5"})  # type: ignore[arg-type]
    with pytest.raises(dataclasses.FrozenInstanceError):
        Settings().threads = 3  # type: ignore[misc]


@pytest.mark.parametrize(
    ("given", "missing"),
    [
        ("tls_cert", "tls_key"),
        ("tls_key", "tls_cert"),
        ("tls_client_ca", "tls_cert"),
        ("target_key", "target_cert"),
    ],
)
def test_a_file_that_is_of_no_use_alone(given: str, missing: str) -> None:
    with pytest.raises(InputError, match=f"^{given}: is of no use without {missing}; give that file too$"):
        resolve(environ={settings.variable(given): "file.pem"})


def test_a_server_and_a_client_have_flags_of_their_own() -> None:
    assert set(settings.of_server()) | set(settings.of_client()) == set(settings.declared())
    assert not set(settings.of_server()) & set(settings.of_client())
    assert {"tls_cert", "token_file"} <= set(settings.of_server())
    assert {"target_ca", "target_token_file"} <= set(settings.of_client())


def test_aliases_name_models() -> None:
    flags = ("--model", "a/b", "--model", "c", "--alias", "x=a/b", "--alias", "@cf/y=c")
    made = resolve(*flags)[0]
    assert made.aliases(made.model) == {"x": "a/b", "@cf/y": "c"}
    variables = {"RERANKD_ALIAS": "x=mini-en,y=mini-en"}
    assert resolve(environ=variables)[0].aliases(["mini-en"]) == {"x": "mini-en", "y": "mini-en"}


@pytest.mark.parametrize(
    ("alias", "message"),
    [
        (("x=a", "x=a"), "'x' is given twice; each name means one model"),
        (("x=b",), "'x' is to mean 'b', which is not served; models: a"),
        (("x",), r"\('x',\) .* is not legal; it must be names of models, as NAME=MODEL"),
        (("=a",), "is not legal"),
        (("x=",), "is not legal"),
        (("x y=a",), "is not legal"),
    ],
)
def test_a_bad_alias_is_refused(alias: tuple[str, ...], message: str) -> None:
    with pytest.raises(InputError, match=f"^alias: .*{message}"):
        Settings(model=("a",), alias=alias).aliases(("a",))


def test_an_alias_is_a_matter_of_the_server_alone() -> None:
    """`rerankd rank --model other` runs where RERANKD_ALIAS is meant for the server."""
    assert resolve("--model", "b", environ={"RERANKD_ALIAS": "x=a"})[0].model == ("b",)


def test_only_some_flags() -> None:
    assert resolve("--device", "cpu", only=("device", "dtype"))[0].device == "cpu"
    with pytest.raises((SystemExit, argparse.ArgumentError)):  # the latter from Python 3.13 on
        resolve("--threads", "3", only=("device", "dtype"))


VALUES: dict[str, st.SearchStrategy[Any]] = {
    "model": st.lists(st.sampled_from(["mini-en", "./a b", "org/name@v1"]), max_size=3).map(tuple),
    "device": st.sampled_from(["auto", "cpu", "cuda", "cuda:3"]),
    "dtype": st.sampled_from(["auto", "f32", "int8"]),
    "threads": st.none() | st.integers(1, 4096),
    "grpc": st.integers(0, 65535).map(lambda port: f"[::1]:{port}"),
    "health": st.just("") | st.integers(0, 65535).map(lambda port: f"localhost:{port}"),
    "reflection": st.booleans(),
    "otlp_endpoint": st.just("") | st.integers(0, 65535).map(lambda port: f"http://localhost:{port}"),
    "trace_ratio": st.floats(0, 1),
    "max_message_bytes": st.integers(1, (1 << 31) - 1),
    "grace_seconds": st.floats(0, 86400),
    "log_format": st.sampled_from(["text", "json"]),
    "max_deadline_seconds": st.floats(0.001, 86400),
    "token_file": st.sampled_from(["", "/run/secrets/my tokens", 'a "b" \\ é # c', "C:\\tokens"]),
    "target_tls": st.booleans(),
}


@given(st.fixed_dictionaries({}, optional=VALUES))
def test_what_is_printed_is_a_file_that_says_the_same(values: dict[str, Any]) -> None:
    wanted = Settings(**values)
    text = settings.to_toml(wanted, dict.fromkeys(settings.declared(), "somewhere"))
    assert Settings(**tomllib.loads(text)) == wanted


@given(st.fixed_dictionaries({}, optional=VALUES))
def test_a_knob_reads_what_it_shows(values: dict[str, Any]) -> None:
    for name, value in values.items():
        kind = settings.declared()[name].kind
        if value != ():  # which has no spelling but to say nothing
            assert kind.parse(kind.show(value)) == value


@given(st.text() | st.integers() | st.floats() | st.booleans() | st.none() | st.lists(st.text()))
def test_a_kind_takes_a_value_or_raises_value_error(raw: object) -> None:
    for knob in settings.declared().values():
        try:
            value = knob.kind.parse(raw)
        except ValueError:
            continue
        assert knob.kind.parse(value) == value


def test_every_knob_is_described() -> None:
    assert [f.name for f in dataclasses.fields(Settings)] == list(settings.declared())
    for name, knob in settings.declared().items():
        assert isinstance(knob, knobs.Knob)
        assert knob.about
        assert knob.kind.legal
        assert "|" not in knob.about + knob.kind.legal, f"{name} would break the table"


def test_the_committed_page_is_current() -> None:
    assert DOCUMENT.read_text("utf-8") == settings.to_markdown(), (
        "docs/settings.md is not what the declarations say: python -m rerankd.settings > docs/settings.md"
    )
