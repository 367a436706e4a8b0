"""A bench from its plan to its result: the capacity, where the rate is told in it, then the load itself."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from importlib import metadata
from typing import Any, Final

from tqdm import tqdm

from rerankd import bench, bench_figures, bench_result
from rerankd.bench_figures import Call
from rerankd.bench_kinds import Rate
from rerankd.bench_load import Load, Measured, Messages
from rerankd.bench_result import Asked, Calibration, Generator, Model, Result
from rerankd.errors import InputError, RerankdError, UnknownModelError
from rerankd.ranking import Options
from rerankd.wire import ServedModel

# The capacity is measured for at least so long, and until workers have had so many answers each on average,
# but for no longer than that.
_LEAST_SECONDS: Final = 3.0
_CALLS_PER_WORKER: Final = 4
_MOST_SECONDS: Final = 30.0
# Seconds for the answers that are still to come when all has been sent.
_PATIENCE: Final = 30.0


@dataclass(frozen=True, slots=True)
class Plan:
    """What a run is to be."""

    asked: Asked
    rate: Rate | None
    """None: a closed loop."""
    groups: Sequence[bench.Group]
    options: Options

    @property
    def deadline(self) -> float | None:
        """Each call's, in seconds."""
        return None if self.asked.deadline_ms is None else self.asked.deadline_ms / 1000

    @property
    def seconds(self) -> float:
        """From the first call to the last."""
        return self.asked.warmup + self.asked.duration


def run(plan: Plan, server: Measured, model: str, *, own: bool) -> tuple[Result, list[Call]]:
    """Puts the server under the load that is planned; SIGINT and SIGTERM end it early.

    model: "" for the server's default. own: whether the bench has started it. Raises what
    `Measured.served` does; UnknownModelError; InputError for calls that are too large; RerankdError where a
    capacity can't be measured; KeyboardInterrupt where it is ended before the load.
    """
    work = _run(plan, server, model, own=own)
    try:
        import uvloop  # noqa: PLC0415 - not on every platform
    except ImportError:
        return asyncio.run(work)
    return uvloop.run(work)


async def _run(plan: Plan, server: Measured, model: str, *, own: bool) -> tuple[Result, list[Call]]:
    answering = _answering(await server.served(), model)
    _check_size(plan, answering)
    messages = Messages.of(plan.groups, plan.options, model, stream=plan.asked.stream)
    calibration = await _calibrated(plan, server, messages)
    rate = None if plan.rate is None else plan.rate.value
    if rate is not None and calibration is not None:
        rate *= calibration.capacity
    load = _load(plan, server, messages)
    begun, computed = time.perf_counter(), time.process_time()
    async with _attended(load, plan.seconds, "load"):
        if rate is None:
            await load.closed_loop(plan.asked.concurrency or 1, plan.seconds)
        else:
            await load.open_loop(bench.arrivals(rate, plan.seconds, plan.asked.seed))
    cpu_share = (time.process_time() - computed) / (time.perf_counter() - begun)
    ended = plan.seconds if load.stopped_at is None else min(load.stopped_at, plan.seconds)
    window = (min(plan.asked.warmup, ended), ended)
    total = bench_figures.figures(load.calls, window, plan.deadline)
    lag_ms = bench_figures.lag(load.calls, window)
    result = Result(
        version=metadata.version("rerankd"),
        target=server.address,
        own_server=own,
        model=Model(answering.name, answering.revision, answering.device, answering.dtype),
        loop="closed" if rate is None else "open",
        asked=plan.asked,
        calibration=calibration,
        rate=rate,
        seconds=window[1] - window[0],
        interrupted=load.stopped_at is not None,
        total=total,
        classes=bench_result.classes(plan.groups, load.calls, window, plan.deadline),
        generator=Generator(lag_ms, cpu_share, load.connections, load.most_in_flight),
        warnings=tuple(bench_figures.warnings(total, lag_ms, cpu_share)),
    )
    return result, load.calls


def _answering(models: Sequence[ServedModel], name: str) -> ServedModel:
    for model in models:
        if name in (model.name, *model.aliases) or (not name and model.is_default):
            return model
    listed = ", ".join(model.name for model in models)
    raise UnknownModelError(f"no model {name!r} is served there; served: {listed}")


def _check_size(plan: Plan, model: ServedModel) -> None:
    """Calls that can only be refused would tell nothing."""
    most = max(len(request.contexts) for group in plan.groups for request in group.requests)
    if most > model.max_contexts:
        field = "mix" if plan.asked.file is None else "FILE"
        limit = f"{model.name} takes {model.max_contexts} a call there"
        raise InputError(
            field, f"has a call of {most} contexts, and {limit}; ask for fewer, or raise max_contexts"
        )


def _load(plan: Plan, server: Measured, messages: Messages) -> Load:
    draws = bench.draws(plan.groups, plan.asked.seed)
    return Load(server, messages, draws, timeout=plan.deadline, patience=_PATIENCE)


async def _calibrated(plan: Plan, server: Measured, messages: Messages) -> Calibration | None:
    """The capacity, where the rate is a multiple of it: what a closed loop gets through."""
    if plan.rate is None or not plan.rate.of_capacity:
        return None
    load = _load(plan, server, messages)
    workers = plan.asked.concurrency or 1

    def enough() -> bool:
        if load.now() < _LEAST_SECONDS:
            return False
        hopeless = not load.ok and load.refused + load.failed >= workers
        return hopeless or load.ok >= workers * (1 + _CALLS_PER_WORKER)

    async with _attended(load, _MOST_SECONDS, "capacity"):
        await load.closed_loop(workers, _MOST_SECONDS, enough)
    if load.stopped_at is not None:
        raise KeyboardInterrupt
    mean = bench.mean_contexts(plan.groups)
    found = bench_figures.capacity(load.calls, workers, mean, plan.deadline)
    if found is None:
        counts = Counter(call.code for call in load.calls)
        codes = ", ".join(f"{code}: {count}" for code, count in counts.most_common()) or "no call ended"
        raise RerankdError(
            f"hardly a call was OK and in time while the capacity was measured ({codes}); give --rate a "
            "number, or send smaller requests"
        )
    return Calibration(workers, load.now(), found)


@asynccontextmanager
async def _attended(load: Load, seconds: float, what: str) -> AsyncIterator[None]:
    """Shows how far a load is, on a terminal, and lets signals end it."""
    loop = asyncio.get_running_loop()
    signals = (signal.SIGINT, signal.SIGTERM)
    for which in signals:
        loop.add_signal_handler(which, load.stop)
    with _bar(seconds, what) as bar:
        showing = asyncio.create_task(_show(load, seconds, bar))
        try:
            yield
        finally:
            showing.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await showing
            for which in signals:
                loop.remove_signal_handler(which)


@contextlib.contextmanager
def _bar(seconds: float, what: str) -> Iterator[tqdm[Any]]:
    form = "{desc} |{bar}| {n:.0f} of {total:.0f} s{postfix}"
    screen = shutil.get_terminal_size()  # where a terminal does not tell its size, tqdm itself shows nothing
    columns, rows = screen.columns - 1, screen.lines
    # disable=None: shown on a terminal alone. leave=False: gone in the end, as the table says it all.
    with tqdm(
        total=seconds, desc=what, bar_format=form, ncols=columns, nrows=rows, leave=False, disable=None
    ) as bar:
        yield bar


async def _show(load: Load, seconds: float, bar: tqdm[Any]) -> None:
    while True:
        await asyncio.sleep(0.1)
        counts = f"{load.ok} OK, {load.refused} refused, {load.failed} failed, {load.in_flight} in flight"
        bar.set_postfix_str(counts, refresh=False)
        bar.n = min(load.now(), seconds)
        bar.refresh()
