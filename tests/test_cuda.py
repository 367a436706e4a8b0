"""CUDA without CUDA: what a machine with no GPU is told, in either build; where libraries are found."""

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path

import pytest
from rerankd import DeviceError, Reranker, _core, cuda
from rerankd.errors import LostError
from rerankd.http_errors import refusal
from rerankd.http_shapes import Dialect
from rerankd.status import Failure

NO_GPU = cuda._loads("libcuda.so.1") is False
without_gpu = pytest.mark.skipif(not NO_GPU, reason="this machine has an NVIDIA driver")


def test_wheels_libraries_are_found_the_linked_one_first(tmp_path: Path) -> None:
    for name in ("cu13/lib/libcublas.so.13", "cu13/lib/libcublasLt.so.13", "cublas/lib/libcublas.so.12"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    names = [path.name for path in cuda.found([str(tmp_path)])]
    assert names == ["libcublasLt.so.13", "libcublas.so.13", "libcublas.so.12"]
    assert cuda.found([str(tmp_path / "none")]) == []


@without_gpu
@pytest.mark.parametrize("device", ["cuda", "cuda:0"])
def test_a_gpu_that_is_not_there_is_refused_in_a_sentence(device: str) -> None:
    with pytest.raises(DeviceError, match=rf"^device {device}: .+; use device cpu or auto$") as refused:
        Reranker("mini-en", device=device)
    assert ("driver" in str(refused.value)) == _core.cuda


@without_gpu
def test_auto_computes_on_the_cpu_and_a_build_for_gpus_says_why(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "rerankd"), Reranker("mini-en") as reranker:
        assert reranker.engine.device == "cpu"
        assert len(reranker.rank("q", ["a"])) == 1
    said = [record.getMessage() for record in caplog.records if "computing on the CPU" in record.getMessage()]
    assert len(said) == (1 if _core.cuda else 0)


def test_the_extension_is_linked_to_no_library_of_cudas() -> None:
    """It is imported on machines that have none: with all of them out of sight, in another interpreter."""
    linked = subprocess.run(["ldd", _core.__file__], capture_output=True, text=True, check=True).stdout
    for library in ("libcuda.so", "libcudart", "libcublas", "libnvrtc", "libcurand"):
        assert library not in linked
    subprocess.run(
        [sys.executable, "-c", "from rerankd import _core"], check=True, env={"LD_LIBRARY_PATH": "/none"}
    )


def test_a_lost_gpu_is_unavailable_and_the_caller_is_told_to_go_elsewhere() -> None:
    failure = Failure.of(LostError("NVIDIA H200 is lost: CUDA_ERROR_LAUNCH_FAILED"), "test")
    assert (failure.reason, failure.retry_after_ms) == ("DEVICE_LOST", None)
    assert failure.to_status().code == 14  # UNAVAILABLE
    answer = refusal(LostError("it is lost"), "test", Dialect.CONTEXTS)
    assert answer.status == 503
