"""The live server that all clients are pointed at. Nothing here may reach beyond this machine."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from clients.live import ROOT, Live, rank_in_process, serving

# Before any client is imported: what would have them ask, or tell, somebody else.
os.environ.update(
    {
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        "LITELLM_TELEMETRY": "False",
        "HAYSTACK_TELEMETRY_ENABLED": "False",
        "LANGSMITH_TRACING": "false",
        "HF_HUB_OFFLINE": "1",
        "DO_NOT_TRACK": "1",
        "NO_PROXY": "127.0.0.1",
        "no_proxy": "127.0.0.1",
    }
)


def pytest_addoption(parser: pytest.Parser) -> None:
    python = ROOT / ".venv" / "bin" / "python"
    parser.addoption("--server-python", default=str(python), help="the interpreter that has rerankd")


@pytest.fixture(scope="session")
def server_python(pytestconfig: pytest.Config) -> str:
    python = str(pytestconfig.getoption("--server-python"))
    assert Path(python).is_file(), f"there is no {python}: run make setup"
    return python


@pytest.fixture(scope="session")
def live(server_python: str) -> Iterator[Live]:
    """A server with no settings to speak of, which all tests leave as they found it."""
    ranking = rank_in_process(server_python)
    # With reflection, which gRPC clients without stubs need.
    with serving(server_python, "--reflection") as addresses:
        yield Live(addresses, ranking)
