"""What a bench was asked and what it found: the object that `--json` prints, key by key."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rerankd import bench_figures
from rerankd.bench import Group
from rerankd.bench_figures import Call, Figures, Percentiles


@dataclass(frozen=True, slots=True)
class Asked:
    """The flags, as they were understood."""

    rate: str | None
    """Calls a second, as "50" or "0.7x"; None in a closed loop."""
    concurrency: int | None
    """Workers of a closed loop, or of the calibration; None where there is neither."""
    duration: float
    """Seconds that count."""
    warmup: float
    """Seconds before them that do not."""
    mix: str | None
    words: str | None
    file: str | None
    deadline_ms: int | None
    budget_ms: int | None
    priority: str
    stream: bool
    seed: int


@dataclass(frozen=True, slots=True)
class Model:
    """What answered, in ListModels' words."""

    name: str
    revision: str
    device: str
    dtype: str


@dataclass(frozen=True, slots=True)
class Calibration:
    """A closed loop before an open one whose rate is a multiple of what it finds."""

    workers: int
    seconds: float
    """That it took."""
    capacity: float
    """Calls of the mix's mean size that were answered per second, OK and in time."""


@dataclass(frozen=True, slots=True)
class Generator:
    """What the load cost this side."""

    lag_ms: Percentiles | None
    """From when calls were due to when they were sent."""
    cpu_share: float
    """Of one core, that the generator computed for."""
    connections: int
    """That were opened; the last is a spare."""
    most_in_flight: int
    """Calls at once."""


@dataclass(frozen=True, slots=True)
class Class:
    """One size of request, or a range of sizes."""

    contexts: str
    weight: float
    figures: Figures

    @property
    def in_words(self) -> str:
        return "1 context" if self.contexts == "1" else f"{self.contexts} contexts"


@dataclass(frozen=True, slots=True)
class Result:
    """One run."""

    version: str
    """Of this rerankd, the generator."""
    target: str
    own_server: bool
    """Whether the server was started by the bench, on this machine."""
    model: Model
    loop: str
    """open, or closed."""
    asked: Asked
    calibration: Calibration | None
    rate: float | None
    """Calls a second that an open loop's schedule was drawn for."""
    seconds: float
    """The window's length: the duration, or less where it was interrupted."""
    interrupted: bool
    total: Figures
    classes: tuple[Class, ...]
    generator: Generator
    warnings: tuple[str, ...]
    """What to know before one trusts the figures."""


def classes(
    groups: Sequence[Group], calls: Sequence[Call], window: tuple[float, float], deadline: float | None
) -> tuple[Class, ...]:
    """The figures of each group. window and deadline: as of `bench_figures.figures`."""
    return tuple(
        Class(
            group.contexts,
            group.weight,
            bench_figures.figures([call for call in calls if call.group == at], window, deadline),
        )
        for at, group in enumerate(groups)
    )
