"""What both clients share: whom they ask, how they speak to it, their defaults, how errors are told."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeAlias, cast

import grpc

from rerankd import pem, wire
from rerankd.errors import InputError, RerankdError
from rerankd.ranking import deadline_after

DEFAULT_TARGET: Final = "localhost:50051"

_SERVICE: Final = "rerankd.v1.RerankService"

SERVICE_CONFIG: Final = json.dumps(
    {
        "loadBalancingConfig": [{"round_robin": {}}],
        "healthCheckConfig": {"serviceName": _SERVICE},
        "methodConfig": [
            {
                "name": [{"service": _SERVICE}],
                "retryPolicy": {
                    "maxAttempts": 3,
                    "initialBackoff": "0.1s",
                    "maxBackoff": "1s",
                    "backoffMultiplier": 2,
                    # CANCELLED is what a call gets that a stopping server's core took and Python had not yet.
                    "retryableStatusCodes": ["UNAVAILABLE", "CANCELLED"],
                },
            }
        ],
        # Where more than a third of the calls fail for long, trying again only adds to the load.
        "retryThrottling": {"maxTokens": 100, "tokenRatio": 0.5},
    }
)
"""For clients in other languages too: gRPC's own JSON, as `grpc.service_config` takes it."""

_DETAILS_KEY: Final = "grpc-status-details-bin"

Token: TypeAlias = "str | Callable[[], str]"
_File: TypeAlias = "str | os.PathLike[str] | None"


class Target:
    """A server, and how to ask it; Client's documentation says what the arguments mean."""

    def __init__(
        self,
        target: str = DEFAULT_TARGET,
        *,
        model: str = "",
        timeout: float | None = 60.0,
        max_message_bytes: int = 16 << 20,
        options: Sequence[tuple[str, Any]] = (),
        tls: bool = False,
        ca: _File = None,
        cert: _File = None,
        key: _File = None,
        token: Token | None = None,
    ) -> None:
        deadline_after(timeout)
        self._target = target
        self._model = model
        self._timeout = timeout
        self._token = token
        self._credentials = _credentials(tls, ca, cert, key)
        self._channel_options = [
            ("grpc.service_config", SERVICE_CONFIG),
            ("grpc.max_send_message_length", max_message_bytes),
            ("grpc.max_receive_message_length", max_message_bytes),
            # A call larger than this buffer is not tried again, and gRPC's own default is 256 KiB.
            ("grpc.per_rpc_retry_buffer_size", max_message_bytes + (64 << 10)),
            *options,
        ]
        self._open()

    def _open(self) -> None:
        raise NotImplementedError

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._target!r})"

    def _call(self, timeout: float | None) -> dict[str, Any]:
        """What every call is made with."""
        deadline_after(timeout)
        if self._token is None:
            return {"timeout": timeout}
        token = self._token() if callable(self._token) else self._token
        # gRPC says of a value that it can't send nothing but the value.
        if not (
            isinstance(token, str)
            and token.isascii()
            and token.isprintable()
            and token.strip() == token != ""
        ):
            raise InputError("token", "must be printable ASCII, with no blanks around it, and not empty")
        # Not as gRPC's call credentials, which it sends over TLS alone: a mesh or a proxy may do that part.
        return {"timeout": timeout, "metadata": (("authorization", f"Bearer {token}"),)}

    def _seconds(self, timeout: float | None) -> float | None:
        return self._timeout if timeout is None else timeout

    def _named(self, model: str | None) -> str:
        return self._model if model is None else model

    def _error(self, error: grpc.RpcError) -> RerankdError:
        call = cast(grpc.Call, error)
        details = next((value for key, value in call.trailing_metadata() or () if key == _DETAILS_KEY), b"")
        code: int = call.code().value[0]
        return wire.error(code, call.details() or "", cast(bytes, details), self._target)


def _credentials(tls: bool, ca: _File, cert: _File, key: _File) -> grpc.ChannelCredentials | None:
    """None for plaintext."""
    if cert is None and key is None:
        own: tuple[bytes | None, bytes | None] = (None, None)
    elif cert is None or key is None:
        missing, given = ("cert", "key") if cert is None else ("key", "cert")
        raise InputError(given, f"is of no use without {missing}; give that file too")
    else:
        pair = pem.read_pair(os.fspath(cert), os.fspath(key), ("cert", "key"))
        own = (pair.key, pair.chain)
    if not (tls or ca is not None or cert is not None):
        return None
    authorities = None if ca is None else pem.read_authorities(os.fspath(ca), "ca")
    return grpc.ssl_channel_credentials(authorities, *own)
