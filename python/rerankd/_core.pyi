"""The documented boundary between Python and the Rust core. Checked against the extension by stubtest.

Nothing here blocks on the model but `Completions.wait`, and that without the GIL. No Rust thread ever takes
the GIL: finished work waits in a `Completions` queue until Python fetches it.
"""

from collections.abc import Sequence
from typing import final

__version__: str

def pack(directory: str, out: str, *, dtype: str, kernels: str, emulate: bool) -> tuple[str, str]:
    """Writes the checkpoint in `directory`, packed, as `out`/model.safetensors; `out` is there already.

    Returns the precision and the instruction set that it is packed for. Raises ModelError where the
    checkpoint can't be served or the file not written, DeviceError where this machine lacks what is asked.
    """

@final
class Engine:
    """A loaded checkpoint and the threads that run it.

    Raises ModelError where the checkpoint can't be served, DeviceError where the machine can't run what is
    asked.
    """

    def __new__(
        cls,
        directory: str,
        *,
        device: str,
        dtype: str,
        threads: int | None,
        kernels: str,
        emulate: bool,
        max_tokens: int | None,
        wave_tokens: int,
        queue_tokens: int,
    ) -> Engine: ...
    @property
    def architecture(self) -> str:
        """The checkpoint's model_type, as "bert"."""
    @property
    def device(self) -> str: ...
    @property
    def dtype(self) -> str:
        """The precision of the computation: "f32", "bf16", "int8"."""
    @property
    def kernels(self) -> str:
        """The instruction set chosen for this machine and dtype: "avx2", "avx512", "avx512-vnni", ..."""
    @property
    def threads(self) -> int:
        """Compute threads; where None was given, as many as the cgroup quota and the affinity mask leave."""
    @property
    def max_tokens(self) -> int:
        """Tokens per pair, special tokens included."""
    @property
    def revision(self) -> str:
        """A digest that tells this checkpoint from another of the same name."""
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
    ) -> int:
        """Queues a query's contexts and returns at once with a ticket.

        One completion with `last` set follows for each ticket; a progressive one is preceded by a completion
        per wave. `more` leaves the ticket open for `extend`. overflow: truncate, truncate_context, chunk,
        reject. priority: interactive, batch. Raises InputError, OverloadedError.
        """
    def extend(self, ticket: int, contexts: Sequence[str], *, more: bool) -> None:
        """Adds contexts to an open ticket; ids run on. `more=False` closes it. A finished one ignores it."""
    def cancel(self, ticket: int) -> None:
        """Frees the ticket's place at once; nothing more of it is completed. Unknown tickets are ignored."""
    def drain(self) -> None:
        """From now on `submit` raises OverloadedError; what is queued is still served."""
    def close(self) -> None:
        """Stops the threads after the waves they are in; what is queued fails with OverloadedError."""
    def stats(self) -> dict[str, int]:
        """Gauges (queue_tokens, tickets) and counters since the start (waves, pairs, tokens, cancelled,
        expired, refused, failed)."""

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
