"""The images, built once for all tests: that for CPUs, and that for NVIDIA GPUs where there is nvcc."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from benches.container import Store, cuda, missing


@pytest.fixture(scope="session")
def store() -> Store:
    if lacking := missing():
        pytest.skip(f"this machine lacks {', '.join(lacking)}")
    return Store()


@pytest.fixture(scope="session")
def cuda_image(store: Store) -> str:
    """deploy/Dockerfile.cuda on the other's Debian and nvcc of NVIDIA's wheels; skips where there is none."""
    found = cuda()
    if found is None:
        pytest.skip("there is no nvcc in .cuda; run make cuda-env")
    return store.build_cuda(found)


@pytest.fixture(scope="session", params=["cpu", "cuda"])
def image(store: Store, request: pytest.FixtureRequest) -> str:
    """Each of them in turn."""
    return str(request.getfixturevalue("cuda_image")) if request.param == "cuda" else store.build()


@pytest.fixture
def confined(store: Store, image: str) -> Iterator[list[str]]:
    with store.confined(image) as command:
        yield command


@pytest.fixture(scope="session")
def root(store: Store, image: str) -> Iterator[Path]:
    """The image's files."""
    with store.mounted(image) as root:
        yield root
