"""A cgroup that holds processes to a part of a core: by version 1, which is what this was run on."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

_CPU: Final = Path("/sys/fs/cgroup/cpu")


def may_limit() -> bool:
    """Whether this process may make such a cgroup."""
    return os.access(_CPU / "cgroup.procs", os.W_OK) and (_CPU / "cpu.cfs_quota_us").parent.is_dir()


class Quota:
    """What processes may have of the CPU together."""

    def __init__(self, group: Path) -> None:
        self._group = group

    def add(self, pid: int) -> None:
        """A process, with all its threads."""
        (self._group / "cgroup.procs").write_text(str(pid))

    def limit(self, cores: float, period: float = 0.1) -> None:
        """period: in seconds, of which the processes run for `cores` times as many."""
        (self._group / "cpu.cfs_period_us").write_text(str(round(period * 1e6)))
        (self._group / "cpu.cfs_quota_us").write_text(str(round(cores * period * 1e6)))

    def lift(self) -> None:
        (self._group / "cpu.cfs_quota_us").write_text("-1")

    def throttled(self) -> int:
        """How many periods ended before the processes had what they wanted."""
        lines = (self._group / "cpu.stat").read_text().splitlines()
        return int(dict(line.split() for line in lines)["nr_throttled"])


@contextmanager
def quota(name: str) -> Iterator[Quota]:
    """A group of its own, without a limit yet; what is in it at the end goes back to where all are."""
    group = _CPU / name
    group.mkdir()
    try:
        yield Quota(group)
    finally:
        for pid in (group / "cgroup.procs").read_text().split():
            (_CPU / "cgroup.procs").write_text(pid)
        group.rmdir()
