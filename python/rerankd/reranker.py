"""Reranker: a model in this process, asked from a thread or from an event loop."""

from __future__ import annotations

import math
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from rerankd import models
from rerankd._core import Completions, Engine
from rerankd._core import cuda as GPUS  # noqa: N812 - a constant
from rerankd.completions import Mailbox, RankStream
from rerankd.deferred import Deferred, begin
from rerankd.errors import DeadlineError, InputError
from rerankd.pool import GPU_WAVE_TOKENS, WAVE_TOKENS, Pool, check_count
from rerankd.ranking import (
    Options,
    Pairs,
    Passages,
    Ranking,
    Result,
    Tally,
    Timing,
    Usage,
    check_query,
    deadline_after,
    unencodable,
)

if TYPE_CHECKING:
    import asyncio
    import logging

    import numpy as np
    import numpy.typing as npt
else:
    asyncio, logging, np = Deferred("asyncio"), Deferred("logging"), Deferred("numpy")

__all__ = ["Context", "RankStream", "Ranking", "Reranker", "Result", "Timing", "Usage"]

Context = str | Mapping[str, object]
"""A context as a caller gives it: its text, or a mapping with "text" and optionally "key"."""


class Reranker:
    """A loaded model. Safe to use from many threads and many event loops at once.

    model: "mini-en" (embedded), a checkpoint's directory, or a hub id.
    device: "auto", "cpu", "cuda" (all GPUs), "cuda:N".
    dtype: "f32"; "bf16" and "int8", where the machine has instructions for them; "auto": bf16 where it is the
        faster, else f32. On a GPU "f32", "bf16", "f16"; "auto": f16.
    threads: compute threads; None: as many as the machine gives this process.
    max_tokens: tokens per (query, context) pair, special tokens included; None: the checkpoint's limit.
    kernels: the instruction set: "auto", or for tests "scalar", "gemm", "avx2", "avx512".
    emulate: compute a dtype that the machine has no instructions for all the same; it saves memory, not time.
    wave_tokens: tokens computed at one go; None: 256.
    gpu_wave_tokens: the same on a GPU; None: 16384.
    queue_tokens: tokens that requests may hold together before one is refused with OverloadedError; None: no
        limit.
    pool: the threads and the queue, shared with other rerankers; then threads, wave_tokens and queue_tokens
        are the pool's own, and must not be given here. None: threads and a queue of this model's own.

    Raises ModelError where the checkpoint can't be served, DeviceError where the machine can't serve it, and
    InputError (a ValueError) that names a bad argument.
    """

    def __init__(
        self,
        model: str | Path = models.DEFAULT,
        device: str = "auto",
        dtype: str = "auto",
        threads: int | None = None,
        max_tokens: int | None = None,
        *,
        kernels: str = "auto",
        emulate: bool = False,
        wave_tokens: int | None = None,
        gpu_wave_tokens: int | None = None,
        queue_tokens: int | None = None,
        pool: Pool | None = None,
    ) -> None:
        for name, text in (("model", model), ("device", device), ("dtype", dtype), ("kernels", kernels)):
            if not isinstance(text, (str, Path) if name == "model" else str):
                raise InputError(name, f"must be a string, not {type(text).__name__}")
        if not isinstance(emulate, bool):
            raise InputError("emulate", f"must be True or False, not {emulate!r}")
        check_count("max_tokens", max_tokens)
        check_count("gpu_wave_tokens", gpu_wave_tokens)
        shared = {"threads": threads, "wave_tokens": wave_tokens, "queue_tokens": queue_tokens}
        for name, count in shared.items():
            check_count(name, count)
            if pool is not None and count is not None:
                raise InputError(name, "is the pool's, and is given where that is made")
        self._checkpoint = models.resolve(str(model))
        self._own_pool: Pool | None = None
        if pool is None:
            tokens = WAVE_TOKENS if wave_tokens is None else wave_tokens
            pool = self._own_pool = Pool(threads, wave_tokens=tokens, queue_tokens=queue_tokens)
        begin("numpy")  # while the engine loads, on threads of its own
        if device != "cpu" and GPUS:
            from rerankd import cuda  # noqa: PLC0415 - only a build for GPUs has a use for it

            cuda.preload()
        self._engine = Engine(
            str(self._checkpoint.directory),
            pool.core,
            device=device,
            dtype=dtype,
            kernels=kernels,
            emulate=emulate,
            max_tokens=max_tokens,
            gpu_wave_tokens=GPU_WAVE_TOKENS if gpu_wave_tokens is None else gpu_wave_tokens,
        )
        if self._engine.note is not None:
            logging.getLogger(__name__).warning("device %s: %s", device, self._engine.note)
        self._mailboxes: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, Mailbox] = (
            weakref.WeakKeyDictionary()
        )
        self._mailboxes_lock = threading.Lock()

    @property
    def name(self) -> str:
        return self._checkpoint.name

    @property
    def aliases(self) -> tuple[str, ...]:
        return self._checkpoint.aliases

    @property
    def revision(self) -> str:
        """The hub's commit where there is one, else a digest of the checkpoint's files."""
        return self._checkpoint.revision or self._engine.revision

    @property
    def max_tokens(self) -> int:
        """Tokens per pair, special tokens included."""
        return self._engine.max_tokens

    @property
    def engine(self) -> Engine:
        """The engine: its device, dtype, kernels, stats."""
        return self._engine

    def __repr__(self) -> str:
        engine = self._engine
        return f"Reranker({self.name!r}, device={engine.device!r}, dtype={engine.dtype!r})"

    def rank(  # noqa: PLR0917 - the contract's signature
        self,
        query: str,
        contexts: Iterable[Context],
        top_k: int | None = None,
        score: str = "sigmoid",
        overflow: str = "truncate",
        return_text: bool = False,
        min_score: float | None = None,
        budget_ms: int | None = None,
        *,
        max_tokens: int | None = None,
        priority: str = "interactive",
        timeout: float | None = None,
    ) -> Ranking:
        """Ranks contexts by relevance to the query, best first.

        contexts: strings, or mappings with "text" and optionally "key", which is echoed.
        top_k: how many to return; None: all. score: "sigmoid" (0 to 1) or "logit".
        overflow: what happens to pairs past max_tokens: "truncate" (longest first), "truncate_context" (the
        query is kept whole), "chunk" (windows over the context; the best one's score), "reject".
        return_text: echo each context's text. min_score: leave out what scores below it.
        budget_ms: the best ranking that so many milliseconds buy; `unscored` holds what they did not reach.
        priority: "interactive", or "batch", which waits for the interactive. timeout: in seconds.

        Raises InputError (a ValueError; `field` names the argument), OverloadedError, DeadlineError.
        """
        options = Options(top_k, score, overflow, return_text, min_score, budget_ms, max_tokens, priority)
        check_query(query)
        passages = Passages.read(contexts)
        tally = self._tally(options, passages)
        self._wait([(query, passages, tally)], deadline_after(timeout))
        return tally.ranking()

    def score(
        self,
        query: str,
        contexts: Iterable[Context],
        score: str = "sigmoid",
        *,
        overflow: str = "truncate",
        max_tokens: int | None = None,
    ) -> npt.NDArray[np.float32]:
        """The contexts' scores, in their order. Raises as `rank`."""
        options = Options(score=score, overflow=overflow, max_tokens=max_tokens)
        check_query(query)
        passages = Passages.read(contexts)
        tally = self._tally(options, passages)
        self._wait([(query, passages, tally)])
        return options.scores(tally.logits())

    def predict(
        self,
        pairs: Iterable[Sequence[str]],
        score: str = "sigmoid",
        *,
        overflow: str = "truncate",
        max_tokens: int | None = None,
    ) -> npt.NDArray[np.float32]:
        """The scores of (query, context) pairs, in their order. Pairs of one query share its tokenizing.

        Raises as `rank`; InputError's field names the pair, as `pairs[3]`.
        """
        options = Options(score=score, overflow=overflow, max_tokens=max_tokens)
        asked = Pairs.read(pairs)
        work = [
            (query, passages, self._tally(options, passages)) for query, passages in asked.passages.items()
        ]
        self._wait(work, blame=asked.blame)
        logits = np.empty(len(asked), np.float32)
        for query, _, tally in work:
            logits[asked.places[query]] = tally.logits()
        return options.scores(logits)

    async def rank_async(  # noqa: PLR0917 - the contract's signature
        self,
        query: str,
        contexts: Iterable[Context],
        top_k: int | None = None,
        score: str = "sigmoid",
        overflow: str = "truncate",
        return_text: bool = False,
        min_score: float | None = None,
        budget_ms: int | None = None,
        *,
        max_tokens: int | None = None,
        priority: str = "interactive",
        timeout: float | None = None,
    ) -> Ranking:
        """As `rank`, without ever blocking the loop. A cancelled call frees its place in the engine."""
        options = Options(top_k, score, overflow, return_text, min_score, budget_ms, max_tokens, priority)
        return await self.answer(query, Passages.read(contexts), options, timeout)

    async def answer(
        self,
        query: str,
        passages: Passages,
        options: Options,
        timeout: float | None = None,
    ) -> Ranking:
        """`rank_async`, for what was read and checked already."""
        check_query(query)
        tally, deadline = self._tally(options, passages), deadline_after(timeout)
        if passages.texts:
            mailbox = self._mailbox()
            completion = await mailbox.ask(
                self._engine, lambda queue: self._submit(queue, query, passages, options, deadline)
            )
            tally.add(completion)
        return tally.ranking()

    def stream(  # noqa: PLR0917 - the contract's signature
        self,
        query: str,
        contexts: Iterable[Context] = (),
        top_k: int | None = None,
        score: str = "sigmoid",
        overflow: str = "truncate",
        return_text: bool = False,
        min_score: float | None = None,
        budget_ms: int | None = None,
        *,
        max_tokens: int | None = None,
        priority: str = "interactive",
        timeout: float | None = None,
    ) -> RankStream:
        """Opens a stream on the running loop: contexts are pushed as they come, results leave as computed.

        top_k and min_score count in the final ranking alone; budget_ms runs from the first context. Raises as
        `rank`.
        """
        options = Options(top_k, score, overflow, return_text, min_score, budget_ms, max_tokens, priority)
        stream = self.open_stream(query, options, timeout)
        stream.push(contexts)
        return stream

    def open_stream(self, query: str, options: Options, timeout: float | None = None) -> RankStream:
        """`stream`, for options that were checked already."""
        check_query(query)
        tally, deadline = self._tally(options, Passages()), deadline_after(timeout)

        def begin(completions: Completions, passages: Passages) -> int:
            return self._submit(completions, query, passages, options, deadline, open_ended=True)

        def extend(ticket: int, passages: Passages, first: int) -> None:
            try:
                self._engine.extend(ticket, passages.texts, more=True, key_bytes=passages.key_bytes())
            except UnicodeEncodeError:
                raise unencodable(query, passages.texts, first) from None

        return RankStream(self._engine, self._mailbox(), tally, begin, extend)

    def drain(self) -> None:
        """From now on new work is refused with OverloadedError; what is queued is still done."""
        self._engine.drain()

    def close(self) -> None:
        """What is queued fails with OverloadedError. Threads of its own stop after the work they are in."""
        self._engine.close()
        if self._own_pool is not None:
            self._own_pool.close()
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            return
        with self._mailboxes_lock:
            mailbox = self._mailboxes.pop(loop, None)
        if mailbox is not None:
            mailbox.close()

    def __enter__(self) -> Reranker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _tally(self, options: Options, passages: Passages) -> Tally:
        """Where the answer will be gathered; the last check, against this model's own limit."""
        if options.max_tokens is not None and options.max_tokens > self.max_tokens:
            raise InputError("max_tokens", f"must be at most {self.max_tokens}, the limit of {self.name}")
        return Tally(self.name, options, passages)

    def _submit(
        self,
        completions: Completions,
        query: str,
        passages: Passages,
        options: Options,
        deadline: float | None,
        *,
        open_ended: bool = False,
    ) -> int:
        timeout_ms: int | None = None
        if deadline is not None:
            timeout_ms = math.ceil((deadline - time.monotonic()) * 1000)
            if timeout_ms <= 0:
                raise DeadlineError("the deadline passed before the work began")
        try:
            return self._engine.submit(
                completions,
                query,
                passages.texts,
                max_tokens=options.max_tokens,
                overflow=options.overflow,
                priority=options.priority,
                timeout_ms=timeout_ms,
                budget_ms=options.budget_ms,
                progressive=open_ended,
                more=open_ended,
                key_bytes=passages.key_bytes(),
                # A call has its texts until it is answered; a stream lets go of them, unless they return.
                keeps_texts=options.return_text or not open_ended,
            )
        except UnicodeEncodeError:
            raise unencodable(query, passages.texts) from None

    def _wait(
        self,
        work: Iterable[tuple[str, Passages, Tally]],
        deadline: float | None = None,
        blame: Callable[[str, InputError], InputError] = lambda _, error: error,
    ) -> None:
        """Submits all and waits for all, without the GIL. Ctrl-C or an error cancels what is left.

        blame: tells an error of a query in the caller's own terms.
        """
        completions = Completions()
        pending: dict[int, tuple[str, Tally]] = {}
        query = ""
        try:
            for query, passages, tally in work:
                if passages.texts:
                    ticket = self._submit(completions, query, passages, tally.options, deadline)
                    pending[ticket] = (query, tally)
            while pending:
                for completion in completions.wait():
                    query, tally = pending.pop(completion.ticket)
                    if completion.error is not None:
                        raise completion.error
                    tally.add(completion)
        except InputError as error:
            raise blame(query, error) from None
        finally:
            for ticket in pending:
                self._engine.cancel(ticket)

    def _mailbox(self) -> Mailbox:
        loop = asyncio.get_running_loop()
        with self._mailboxes_lock:
            mailbox = self._mailboxes.get(loop)
            if mailbox is None:
                mailbox = self._mailboxes[loop] = Mailbox()
            return mailbox
