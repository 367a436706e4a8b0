"""What the benches share: the machine in words, Markdown tables, and RESULTS.md."""

import datetime
import os
import platform
import re
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

RESULTS = Path(__file__).resolve().parent / "RESULTS.md"
# Of /proc/cpuinfo's flags, those that decide which kernels run.
ISA_FLAGS = ("avx2", "fma", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "amx_tile", "asimd", "i8mm")


def cpuinfo() -> dict[str, str]:
    """The first processor's entries of /proc/cpuinfo; none on a system without it."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return {}
    lines = (line.partition(":") for line in text.split("\n\n", maxsplit=1)[0].splitlines())
    return {key.strip(): value.strip() for key, _, value in lines}


def flags() -> set[str]:
    """What the first processor can do, in the kernel's words."""
    info = cpuinfo()
    return set(info.get("flags", info.get("Features", "")).split())


def machine() -> str:
    """The CPU's name, the cores that this process may use, and its vector instructions."""
    info = cpuinfo()
    name = info.get("model name", platform.processor() or platform.machine())
    if "cpu family" in info:
        # Two machines of one name can differ by a generation.
        name += f" (family {info['cpu family']}, model {info['model']})"
    known = flags()
    isa = " ".join(flag for flag in ISA_FLAGS if flag in known) or "vector instructions unknown"
    return f"{name}, {len(os.sched_getaffinity(0))} cores, {isa}"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table, aligned so that it reads on a terminal too; all columns but the first to the
    right.
    """
    cells = [list(header), *(list(row) for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(header))]

    def line(row: Sequence[str]) -> str:
        padded = [
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        return "| " + " | ".join(padded) + " |"

    rules = ["-" * (width + 1) + ("-" if column == 0 else ":") for column, width in enumerate(widths)]
    return "\n".join([line(cells[0]), "|" + "|".join(rules) + "|", *(line(row) for row in cells[1:])])


def command() -> str:
    """How this bench was called, as anyone could call it: not where its peers were installed."""
    arguments = iter(sys.argv[1:])
    kept: list[str] = []
    for argument in arguments:
        if argument == "--peers-python":
            next(arguments, None)
        elif argument != "--record" and not argument.startswith("--peers-python="):
            kept.append(argument)
    return shlex.join(["python", "-m", f"benches.{Path(sys.argv[0]).stem}", *kept])


def slug(name: str) -> str:
    """A name as a part of a file's name."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def load() -> str:
    """Other work on the machine spoils a figure: say what there was."""
    return f"load average before: {os.getloadavg()[0]:.1f}"


def record(title: str, body: str) -> None:
    """Appends a section to RESULTS.md, the newest last."""
    when = datetime.datetime.now(tz=datetime.timezone.utc).date().isoformat()
    section = f"\n## {title}, {when}\n\n{machine()}. `{command()}`\n\n{body}\n"
    with RESULTS.open("a", encoding="utf-8") as file:
        file.write(section)


def memory(pid: int | str = "self") -> dict[str, float]:
    """A process's VmHWM (peak), VmRSS, RssAnon and RssFile in MB (10^6 bytes), from /proc.

    VmHWM, not getrusage: that one also counts what the parent had before exec.
    """
    kept = ("VmHWM", "VmRSS", "RssAnon", "RssFile")
    found: dict[str, float] = {}
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        key, _, value = line.partition(":")
        if key in kept:
            found[key] = int(value.split()[0]) * 1024 / 1e6
    return found
