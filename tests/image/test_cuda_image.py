"""The image for NVIDIA GPUs where there is none: it is built for them, computes on the CPU, and says why."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from rerankd import Client, Reranker

from benches.container import Store
from benches.process import Process

NO_DRIVER = "there is no NVIDIA driver here (libcuda.so.1)"


@pytest.fixture
def confined(store: Store, cuda_image: str) -> Iterator[list[str]]:
    with store.confined(cuda_image) as command:
        yield command


def test_with_no_gpu_it_answers_on_the_cpu_and_says_why(confined: list[str]) -> None:
    contexts = ["It sleeps until April.", "Trains run every hour."]
    with (
        Process(1, "--drain-seconds=0", program=confined) as server,
        Client(server.target) as client,
        Reranker("mini-en", threads=1, device="cpu") as reranker,
    ):
        answered = client.rank("When does the bear wake?", contexts)
        expected = reranker.rank("When does the bear wake?", contexts)
        assert [each.id for each in answered] == [each.id for each in expected]
        assert [each.score for each in answered] == pytest.approx([each.score for each in expected], abs=1e-4)
        assert f"device auto: computing on the CPU: {NO_DRIVER}" in server.said()


@pytest.mark.parametrize("device", ["cuda", "cuda:0"])
def test_a_gpu_that_is_asked_for_and_not_there_stops_the_start(confined: list[str], device: str) -> None:
    done = subprocess.run([*confined, f"--device={device}"], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert f"device {device}: {NO_DRIVER}; use device cpu or auto" in done.stderr


def test_kernels_for_the_oldest_gpus_are_in_it(store: Store, cuda_image: str) -> None:
    """As PTX, which the extension has as text, of a version that older drivers read."""
    with store.mounted(cuda_image) as root:
        (extension,) = Path(root).glob("opt/rerankd/lib/python3*/site-packages/rerankd/_core.abi3.so")
        content = extension.read_bytes()
    assert content.count(b"\n.target sm_80\n") == 1
    assert content.count(b"\n.version 8.4\n") == 1
