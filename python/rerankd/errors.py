"""Every error a caller can see: one tree, raised alike by the engine in process and by the clients."""

from __future__ import annotations


class RerankdError(Exception):
    """The root of the tree."""


class InputError(RerankdError, ValueError):
    """A field of the request, or a setting, is bad; `field` is its path, as in `contexts[3].text`."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}" if field else message)
        self.field = field
        self.message = message


class ModelError(RerankdError):
    """The checkpoint can't be served; the message names the file, the key and what is supported."""


class UnknownModelError(RerankdError, LookupError):
    """No model of that name is served; the message lists those that are."""


class DeviceError(RerankdError):
    """There is no such device here, or it can't run what was asked."""


class LostError(DeviceError):
    """The GPU answers nothing any more, and won't until the process is started anew."""


class OverloadedError(RerankdError):
    """The queue is full, or the engine is draining; `retry_after_ms` says when to try again."""

    def __init__(self, message: str, retry_after_ms: int = 1000) -> None:
        super().__init__(message)
        self.retry_after_ms = retry_after_ms


class DeadlineError(RerankdError, TimeoutError):
    """The deadline passed before the work was done."""


class AuthError(RerankdError):
    """The server wants a token, or another one."""


class UnreachableError(RerankdError, ConnectionError):
    """No server answered: none is there, or it went away, or the name does not resolve."""


class InternalError(RerankdError):
    """A fault of ours; a server logs it with a correlation id and tells its caller only that."""
