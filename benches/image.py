"""The container image: its size, of what, and how soon it serves: `python -m benches.image [--record]`.

It is built on a Debian made here, with this machine's toolchain (`benches.container`), and run with its root
read-only and no capability. The same server without a container stands beside it.
"""

import argparse
import json
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np

from benches import report
from benches.container import SUITE, Store, missing
from benches.process import SERVE, Process

ROUNDS: Final = 7
# The largest parts of site-packages that get a line of their own.
PARTS: Final = 9


def layers(store: Store, image: str) -> tuple[float, float]:
    """MB of the image: as it is pulled, compressed, and unpacked."""
    with tempfile.TemporaryDirectory(dir=store.directory) as directory:
        store.buildah("push", "--quiet", image, f"oci:{directory}:image")
        pulled = sum(each.stat().st_size for each in Path(directory, "blobs", "sha256").iterdir())
    (inspected,) = json.loads(subprocess.check_output(store.podman("image", "inspect", image)))
    return pulled / 1e6, inspected["Size"] / 1e6


def size(path: Path) -> float:
    """MB of a file, or of the files of a directory."""
    if not path.is_dir():
        return path.lstat().st_size / 1e6
    return sum(each.lstat().st_size for each in path.rglob("*") if not each.is_dir()) / 1e6


def packages(root: Path) -> dict[str, float]:
    """MB of each package, of ours by its parts; `root` holds the image's files."""
    (site,) = root.glob("opt/rerankd/lib/python3*/site-packages")
    found: dict[str, float] = {}
    for each in site.iterdir():
        if each.name == "rerankd":
            parts = {part: size(each / part) for part in ("models", "_core.abi3.so")}
            found |= {f"rerankd/{part}": mb for part, mb in parts.items()}
            found["rerankd, the rest"] = size(each) - sum(parts.values())
        elif not each.name.endswith(".dist-info"):
            # numpy.libs is numpy's.
            name = each.name.partition(".")[0]
            found[name] = found.get(name, 0.0) + size(each)
    return found


def breakdown(store: Store, image: str) -> list[list[str]]:
    with store.mounted(image) as root:
        everything, environment = size(root), size(root / "opt/rerankd")
        parts = sorted(packages(root).items(), key=lambda part: part[1], reverse=True)[:PARTS]
    rows = [["Debian with Python", f"{everything - environment:.0f}"]]
    rows += [[name, f"{mb:.0f}"] for name, mb in parts]
    rest = environment - sum(mb for _, mb in parts)
    return [*rows, ["other packages", f"{rest:.0f}"]]


def starts(program: Sequence[str], threads: int) -> tuple[list[float], list[float], set[int]]:
    """Of servers one after the other: seconds to SERVING, seconds from SIGTERM to the exit, exit codes."""
    up, down, codes = [], [], set()
    for _ in range(ROUNDS):
        server = Process(threads, "--drain-seconds=0", program=program)
        begun = time.monotonic()
        with server:
            up.append(time.monotonic() - begun)
            code, seconds = server.stop()
        down.append(seconds)
        codes.add(code)
    return up, down, codes


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--record", action="store_true", help="append the tables to benches/RESULTS.md")
    options = parser.parse_args()
    if lacking := missing():
        raise SystemExit(f"the image can't be built here; this machine lacks {', '.join(lacking)}")
    load, store = report.load(), Store()
    image = store.build()
    pulled, unpacked = layers(store, image)
    rows, failed = [], False
    with store.confined(image) as confined:
        for name, program in (("the image, by podman and runc", confined), ("no container", SERVE)):
            up, down, codes = starts(program, options.threads)
            seconds = [f"{np.median(each):.2f} ({min(each):.2f} to {max(each):.2f})" for each in (up, down)]
            rows.append([name, *seconds, ", ".join(map(str, sorted(codes)))])
            failed |= codes != {0}
    sizes = [
        ["pulled, compressed", f"{pulled:.0f}"],
        ["unpacked", f"{unpacked:.0f}"],
        *breakdown(store, image),
    ]
    body = report.table(("the image", "MB"), sizes) + "\n\n"
    header = ("mini-en", "start to SERVING, s", "SIGTERM to exit, s", "exit codes")
    body += report.table(header, rows) + "\n\n"
    body += (
        f"On a Debian {SUITE} of debootstrap's smallest variant. Medians of {ROUNDS} starts, from the "
        f"command to health's SERVING, files in the page cache; drain_seconds 0, {options.threads} threads; "
        f"{load}."
    )
    print(body)
    if options.record:
        report.record("The image", body)
    if failed:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
