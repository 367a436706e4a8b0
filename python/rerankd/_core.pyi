"""The documented boundary between Python and the Rust core. Checked against the extension by stubtest.

Nothing here blocks on the model but `Completions.wait`, and that without the GIL. No Rust thread ever takes
the GIL: finished work waits in a `Completions` queue until Python fetches it.
"""

from collections.abc import Sequence
from typing import final

__version__: str
cuda: bool
"""Whether this build computes on GPUs."""

def cores() -> int:
    """Cores that the cgroup's quota and the affinity mask leave, at least 1. Raises DeviceError."""

def pack(directory: str, out: str, *, dtype: str, kernels: str, emulate: bool) -> tuple[str, str]:
    """Writes the checkpoint in `directory`, packed, as `out`/model.safetensors; `out` is there already.

    Returns the precision and the instruction set that it is packed for. Raises ModelError where the
    checkpoint can't be served or the file not written, DeviceError where this machine lacks what is asked.
    """

@final
class Pool:
    """Threads, and the queue that they work off, for any number of engines.

    threads: None: as many as the cgroup quota and the affinity mask leave. wave_tokens: tokens computed at
    one go. queue_tokens: tokens that requests may hold together before one is refused. Raises InputError,
    DeviceError.
    """

    def __new__(cls, *, threads: int | None, wave_tokens: int, queue_tokens: int) -> Pool: ...
    @property
    def threads(self) -> int: ...
    @property
    def queue_bytes(self) -> int:
        """The most memory that requests take together, from their messages to their answers; in bytes."""
    def stats(self) -> dict[str, int]:
        """Gauges: queue_tokens (that wait), held_tokens (that requests were admitted for and hold until they
        are answered), tickets (requests), threads (alive: fewer than there were means a fault that nothing
        could catch), lost (1 where a GPU answers nothing any more), oldest_step_ms (how long the step has
        been going on that is the longest in work, 0 where all threads are idle; no step is more than a wave,
        so one of minutes is stuck, whatever the load)."""
    def close(self) -> None:
        """Stops the threads after the steps they are in; what is queued fails with OverloadedError."""

@final
class Engine:
    """A loaded checkpoint, run by a pool's threads beside the pool's others.

    gpu_wave_tokens: tokens computed at one go where it is on GPUs.

    Raises ModelError where the checkpoint can't be served, DeviceError where the machine can't run what is
    asked.
    """

    def __new__(
        cls,
        directory: str,
        pool: Pool,
        *,
        device: str,
        dtype: str,
        kernels: str,
        emulate: bool,
        max_tokens: int | None,
        gpu_wave_tokens: int,
    ) -> Engine: ...
    @property
    def architecture(self) -> str:
        """The checkpoint's model_type, as "bert"."""
    @property
    def device(self) -> str: ...
    @property
    def note(self) -> str | None:
        """What an operator should know of how device "auto" was resolved; None: nothing."""
    @property
    def dtype(self) -> str:
        """The precision of the computation: "f32", "bf16", "int8", "f16"."""
    @property
    def kernels(self) -> str:
        """The instruction set chosen for this machine and dtype: "avx2", "avx512-vnni"; on GPUs "cuda"."""
    @property
    def threads(self) -> int:
        """The pool's compute threads."""
    @property
    def max_tokens(self) -> int:
        """Tokens per pair, special tokens included."""
    @property
    def revision(self) -> str:
        """A digest that tells this checkpoint from another of the same name."""
    @property
    def arena_bytes(self) -> int:
        """The most of the host's memory that threads need for this model, beside its weights; in bytes."""
    @property
    def window(self) -> int:
        """Tokens that should wait of a stream at a time: enough to keep all threads busy, little to hold."""
    def submit(
        self,
        completions: Completions,
        query: str,
        contexts: Sequence[str],
        *,
        max_tokens: int | None = None,
        overflow: str = "truncate",
        priority: str = "interactive",
        timeout_ms: int | None = None,
        budget_ms: int | None = None,
        progressive: bool = False,
        more: bool = False,
        key_bytes: int = 0,
        keeps_texts: bool = True,
    ) -> int:
        """Queues a query's contexts and returns at once with a ticket.

        One completion with `last` set follows for each ticket; a progressive one is preceded by a completion
        per wave. `more` leaves the ticket open for `extend`. overflow: truncate, truncate_context, chunk,
        reject. priority: interactive, batch. What the caller keeps until the end counts for admission:
        key_bytes of keys, and the texts where keeps_texts. Raises InputError, and OverloadedError where the
        queue is full, or, at the rate measured, those before it leave too little time for it.
        """
    def extend(self, ticket: int, contexts: Sequence[str], *, more: bool, key_bytes: int = 0) -> None:
        """Adds contexts to an open ticket; ids run on. `more=False` closes it. A finished one ignores it.

        It is for the caller to keep `waiting` about `window`. Raises InputError, and OverloadedError where
        what the caller keeps of them is too much.
        """
    def waiting(self, ticket: int) -> int:
        """The ticket's tokens that wait to be tokenized or computed; 0 for one that has ended."""
    def cancel(self, ticket: int) -> None:
        """Frees the ticket's place at once; nothing more of it is completed. Unknown tickets are ignored."""
    def drain(self) -> None:
        """From now on `submit` raises OverloadedError; what is queued is still served."""
    def close(self) -> None:
        """Refuses what is new; what is queued fails with OverloadedError. The pool goes on."""
    def stats(self) -> dict[str, int]:
        """This model's gauges (queue_tokens: that wait; tickets) and counters since it was loaded (waves,
        pairs, tokens, cancelled, expired, refused, failed)."""
    def histograms(self) -> dict[str, tuple[list[int], list[int], int]]:
        """Since it was loaded: wave_tokens (tokens per wave), queue_us (microseconds a request waited for its
        first wave, less tokenizing). Each: the buckets' largest values, ascending; how many were in each
        bucket, and last of all above them; the sum."""

@final
class Completions:
    """Where finished work waits for its reader: a queue, and a descriptor, readable while it is not empty."""

    def __new__(cls) -> Completions: ...
    def fileno(self) -> int: ...
    def drain(self) -> list[Completion]:
        """All that has finished since the last call; never blocks."""
    def wait(self, timeout_ms: int | None = None) -> list[Completion]:
        """Like drain, but waits, without the GIL, until there is something or the time is up."""

@final
class Completion:
    """Scores of one ticket: of one wave (progressive) or of all of it."""

    @property
    def ticket(self) -> int: ...
    @property
    def last(self) -> bool:
        """Whether this is the ticket's end. A progressive ticket's last completion carries no scores."""
    @property
    def error(self) -> BaseException | None:
        """Why the ticket failed; then it is the last, and the fields below are empty."""
    @property
    def ids(self) -> list[int]:
        """The contexts scored, ascending; of a progressive ticket in the order computed."""
    @property
    def logits(self) -> bytes:
        """One native-endian float32 per id, in the order of `ids`; numpy.frombuffer reads it."""
    @property
    def truncated(self) -> list[bool]:
        """One per id: was the pair cut to fit."""
    @property
    def tokens(self) -> int:
        """Tokens that the model read for these ids."""
    @property
    def unscored(self) -> list[int]:
        """Contexts that the budget did not reach, ascending; on the last completion."""
    @property
    def timing(self) -> tuple[int, int, int]:
        """(queue, tokenize, compute) in microseconds, so far."""
