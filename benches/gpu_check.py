"""One table of all that a GPU has to show, in under 8 minutes: `python -m benches.gpu_check
[--device cuda:0] [--quick] [--kernel-tests BINARY] [--record]`.

Parity with the reference in each precision; the kernels against the oracle, where a binary of the tests is
given; throughput by length beside PyTorch's; and the same through gRPC. What is not there, a GPU or PyTorch,
is said in the table. With `--device cpu --quick` it tries itself on a machine that has neither. It ends with
1 where something failed.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from rerankd import Client, Reranker, _core, settings
from rerankd.bench_server import running

from benches import gpu_torch, report
from benches.checkpoints import SHAPES, Shape, make
from benches.gpu_figures import bar, mixed, operations, parity, utilization
from benches.vocabulary import MINI_EN

ROOT = Path(__file__).resolve().parent.parent
GOLDENS = ("bert", "roberta", "xlm-roberta", "electra", "distilbert")
HEADER = ("what", "figure", "beside it", "verdict")
QUERY = "how long does fresh bread keep in a kitchen"
WORDS = (
    "bread",
    "water",
    "house",
    "river",
    "stone",
    "light",
    "green",
    "small",
    "paper",
    "music",
    "winter",
    "garden",
)
# mini-en's shape, for a try without a GPU.
MINI = Shape("mini-en", "bert", 6, 384, 12, 1536, 30_522, 512, 2)

Row = tuple[str, str, str, str]


def gpu_name() -> str:
    """The first GPU's name and driver, as nvidia-smi has them; "" where there is none."""
    if shutil.which("nvidia-smi") is None:
        return ""
    command = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.splitlines()[0] if done.returncode == 0 and done.stdout else ""


def text(tokens: int, seed: int) -> str:
    """At least so many tokens; the engine cuts it to exactly as many as are asked for."""
    return " ".join(WORDS[(seed + i * (seed % 5 + 1)) % len(WORDS)] for i in range(tokens))


def check_parity(device: str, dtypes: Sequence[str]) -> list[Row]:
    """Every golden and mini-en's cases, in each precision."""
    rows: list[Row] = []
    places = [(ROOT / "tests/golden" / name, ROOT / "tests/golden" / name / "cases.json") for name in GOLDENS]
    for model, file in [*places, (MINI_EN, ROOT / "tests/golden/mini-en-cases.json")]:
        cases = json.loads(file.read_text())
        for dtype in dtypes:
            with Reranker(model, device=device, dtype=dtype) as reranker:
                # Three times: small waves are launched, captured and replayed.
                for _ in range(3):
                    ours = [reranker.score(c["query"], c["contexts"], score="logit").tolist() for c in cases]
            found = parity(ours, [case["logits"] for case in cases])
            most = bar(model.name, dtype)
            figure = f"score off by {found.worst:.1e}"
            beside = f"at most {most:.1e}; best changed in {found.changed} of {found.queries}"
            rows.append(
                (f"parity, {model.name}, {dtype}", figure, beside, "FAILED" if found.fails(most) else "ok")
            )
    return rows


def check_kernels(binary: str | None) -> Row:
    """The kernels' own tests, from a binary that `make cuda-tests` has built."""
    what = "kernels against the oracle"
    if binary is None:
        return what, "not run", "no --kernel-tests", ""
    done = subprocess.run([binary, "gpu::tests"], capture_output=True, text=True, check=False)
    said = next((line for line in done.stdout.splitlines() if line.startswith("test result")), "no result")
    return what, said, "", "ok" if done.returncode == 0 and " 0 passed" not in said else "FAILED"


def rank_all(reranker: Reranker, lengths: Sequence[int]) -> tuple[float, int]:
    """Seconds for pairs of these lengths, all at once, and their tokens as counted."""
    contexts = [text(length, at) for at, length in enumerate(lengths)]
    begun = time.perf_counter()
    ranking = reranker.rank(QUERY, contexts)
    return time.perf_counter() - begun, ranking.usage.tokens


def check_speed(
    device: str, dtype: str, shape: Shape, checkpoint: Path, *, pairs: int, runs: int
) -> list[Row]:
    """Pairs a second by length, text in and scores out, beside PyTorch from ids."""
    rows: list[Row] = []
    why_not = "no GPU" if device == "cpu" else gpu_torch.missing()
    torch = None if why_not else gpu_torch.Torch(checkpoint)
    workloads = [(f"{n} tokens", [n] * (pairs * 128 // n)) for n in (64, 128, 256, 512)] + [
        ("mixed", mixed(pairs))
    ]
    for name, lengths in workloads:
        limit = lengths[0] if name != "mixed" else None
        with Reranker(checkpoint, device=device, dtype=dtype, max_tokens=limit) as reranker:
            taken = [rank_all(reranker, lengths) for _ in range(runs + 1)][1:]
        best, tokens = min(taken)
        if limit is not None and tokens != sum(lengths):
            raise AssertionError(f"{tokens} tokens instead of {sum(lengths)}")
        used = utilization(shape, lengths, best, gpu_name())
        per_pair = sum(operations(shape, length) for length in lengths) / len(lengths) / 1e9
        figure = f"{len(lengths) / best:,.0f} pairs/s, {tokens / best:,.0f} tokens/s"
        beside = f"{per_pair:.1f} GFLOP a pair" + ("" if used is None else f", MFU {used:.1%}")
        if torch is not None:
            usual, large = torch.seconds(lengths, runs)
            beside += f"; to PyTorch bf16 {usual / best:.2f} x in batches of 32 pairs"
            beside += f", {large / best:.2f} x in its best ({len(lengths) / large:,.0f} pairs/s)"
        else:
            beside += f"; PyTorch not run: {why_not}"
        rows.append((f"{shape.name}, {dtype}, {name}", figure, beside, ""))
    return rows


def check_latency(device: str, dtype: str, checkpoint: Path, runs: int) -> Row:
    """One request at a time, of 1, 10 and 100 pairs of 128 tokens: milliseconds from texts to ranking."""
    with Reranker(checkpoint, device=device, dtype=dtype, max_tokens=128) as reranker:
        taken = {n: [rank_all(reranker, [128] * n)[0] for _ in range(runs)] for n in (1, 10, 100)}
    # The first ones of a size are launched and captured, later ones replayed.
    medians = [f"{n}: {np.median(times[runs // 3 :]) * 1e3:.1f}" for n, times in taken.items()]
    return (
        f"{checkpoint.name}, {dtype}, one request, 128 tokens",
        f"{', '.join(medians)} ms",
        "pairs: median",
        "",
    )


def check_service(device: str, dtype: str, checkpoint: Path, callers: int, calls: int) -> Row:
    """Pairs of 128 tokens through gRPC: calls of 100 contexts."""
    flags = {"model": [str(checkpoint)], "device": device, "dtype": dtype, "max_tokens": "128"}
    contexts = [text(128, at) for at in range(100)]

    def call(target: str, times: int) -> None:
        with Client(target) as client:
            for _ in range(times):
                client.rank(QUERY, contexts)

    def together(target: str, times: int) -> float:
        threads = [threading.Thread(target=call, args=(target, times)) for _ in range(callers)]
        begun = time.perf_counter()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return time.perf_counter() - begun

    with running(flags) as (target, _):
        together(target, 1)
        seconds = together(target, calls)
    return (
        f"{checkpoint.name}, {dtype}, through gRPC, 128 tokens",
        f"{callers * calls * len(contexts) / seconds:,.0f} pairs/s",
        f"{callers} callers, 100 contexts a call",
        "",
    )


def rows(device: str, quick: bool, binary: str | None) -> list[Row]:
    on_cpu = device == "cpu"
    gpu = gpu_name()
    built = "built for GPUs" if _core.cuda else "built for the CPU only"
    found: list[Row] = [("GPU", gpu or "none here", built, "" if gpu or on_cpu else "FAILED")]
    found += check_parity(device, ("f32",) if on_cpu else ("f32", "f16", "bf16"))
    found.append(check_kernels(binary))
    dtype = "f32" if on_cpu else "bf16"
    shapes = {MINI: MINI_EN} if quick else {shape: make(shape) for shape in SHAPES.values()}
    pairs, runs = (8, 1) if quick else (8192, 3)
    for shape, checkpoint in shapes.items():
        found += check_speed(device, dtype, shape, checkpoint, pairs=pairs, runs=runs)
        found.append(check_latency(device, dtype, checkpoint, 3 if quick else 30))
        found.append(check_service(device, dtype, checkpoint, *((2, 1) if quick else (32, 20))))
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description="Checks a GPU: parity, kernels, speed, service.")
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--quick", action="store_true", help="mini-en and a few pairs")
    parser.add_argument("--kernel-tests", metavar="BINARY", help="what `make cuda-tests` has built")
    parser.add_argument("--record", action="store_true", help="add the table to RESULTS.md")
    arguments = parser.parse_args()
    settings.declared()["device"].kind.parse(arguments.device)
    begun = time.monotonic()
    found = rows(arguments.device, arguments.quick, arguments.kernel_tests)
    table = report.table(HEADER, found)
    print(table)
    if arguments.record:
        report.record(f"A GPU's check: {gpu_name() or 'no GPU'}", table)
    print(f"{time.monotonic() - begun:.0f} s", file=sys.stderr)
    return int(any(verdict == "FAILED" for *_, verdict in found))


if __name__ == "__main__":
    sys.exit(main())
