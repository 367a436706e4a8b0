"""What deploy/Dockerfile and deploy/Dockerfile.cuda have in common, and what no image may have."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
NAMES = ("Dockerfile", "Dockerfile.cuda")


def instructions(name: str) -> list[tuple[str, str]]:
    """(instruction, its arguments), continued lines joined, comments left out."""
    text = (ROOT / "deploy" / name).read_text("utf-8")
    lines = re.sub(r"^#.*\n", "", text, flags=re.MULTILINE).replace("\\\n", " ").splitlines()
    pairs = [line.split(None, 1) for line in lines if line.strip()]
    return [(word, " ".join(rest.split())) for word, rest in pairs]


def stages(name: str) -> dict[str, list[tuple[str, str]]]:
    """Each stage's instructions, its FROM first; the last one's name is ""."""
    found: dict[str, list[tuple[str, str]]] = {}
    stage = "before"
    for word, rest in instructions(name):
        if word == "FROM":
            stage = rest.partition(" AS ")[2]
        found.setdefault(stage, []).append((word, rest))
    return found


def packages(stage: list[tuple[str, str]]) -> set[str]:
    """Of Debian's, those that it installs."""
    commands = " ".join(rest for word, rest in stage if word == "RUN")
    (names,) = re.findall(r"--no-install-recommends (.*?) &&", commands)
    return set(names.split())


@pytest.mark.parametrize("name", NAMES)
def test_every_base_is_an_argument(name: str) -> None:
    found = stages(name)
    arguments = {rest.partition("=")[0] for word, rest in found.pop("before") if word == "ARG"}
    bases = [stage[0][1].partition(" AS ")[0] for stage in found.values()]
    outer = {base for base in bases if base not in found}
    assert outer == {"${%s}" % argument for argument in arguments}  # noqa: UP031 - braces


@pytest.mark.parametrize("name", NAMES)
def test_what_runs_is_made_of_nothing_but_python_and_the_environment(name: str) -> None:
    found = stages(name)
    last = found[""]
    assert last[0] == ("FROM", "python")
    assert [rest for word, rest in last if word == "COPY"] == ["--from=installed /opt/rerankd /opt/rerankd"]
    assert [word for word, _ in last if word == "RUN"] == []
    (installs,) = [rest for word, rest in found["python"] if word == "RUN"]
    assert re.findall(r"--no-install-recommends (.*?) &&", installs) == ["ca-certificates python3"]


@pytest.mark.parametrize("name", NAMES)
def test_it_is_run_as_a_user_by_its_program_itself(name: str) -> None:
    last = dict(stages(name)[""])
    assert last["USER"] == "10001:10001"
    assert last["ENTRYPOINT"] == '["rerankd", "serve"]'
    assert "HOME=/tmp" in last["ENV"]


@pytest.mark.parametrize("name", NAMES)
def test_versions_are_those_of_the_lock(name: str) -> None:
    """What pip installs is bound by requirements/dev.lock, and cargo by Cargo.lock."""
    commands = [part for word, rest in instructions(name) if word == "RUN" for part in rest.split(" && ")]
    installs = [command for command in commands if re.search(r"\bpip\S* .*?\b(install|download)\b", command)]
    assert len(installs) == 3
    assert all(re.search(r"-c \S*dev\.lock", command) for command in installs)
    (built,) = [command for command in commands if "maturin build" in command]
    assert "--locked" in built


def test_the_cuda_image_differs_in_what_it_says_alone() -> None:
    plain, cuda = (stages(name) for name in NAMES)
    for stage in ("python", "installed"):
        assert plain[stage] == cuda[stage]
    (ours,) = [rest for word, rest in plain["wheel"] if "maturin build" in rest]
    (theirs,) = [rest for word, rest in cuda["wheel"] if "maturin build" in rest]
    assert "--features python,cuda" in theirs
    flags = theirs.replace("--features python,cuda ", "").replace("CUDA_COMPUTE_CAP=${CUDA_COMPUTE_CAP} ", "")
    assert flags == ours
    # It brings the C compiler, and nvcc reads the kernels through it.
    assert packages(cuda["wheel"]) - packages(plain["wheel"]) == {"g++"}
    assert packages(plain["wheel"]) - packages(cuda["wheel"]) == {"gcc"}
    assert [rest for word, rest in cuda[""] if word == "EXPOSE"] == [
        rest for word, rest in plain[""] if word == "EXPOSE"
    ]
