"""What a channel and every call on it are made with, in both programs."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import grpc

MAX_MESSAGE_BYTES = 16 << 20

OPTIONS: list[tuple[str, Any]] = [
    # All addresses of the target in turn, but those whose health says NOT_SERVING; refused calls again.
    ("grpc.service_config", Path(__file__).with_name("service_config.json").read_text("utf-8")),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    # A call larger than this buffer is not tried again, and gRPC's own default is 256 KiB.
    ("grpc.per_rpc_retry_buffer_size", MAX_MESSAGE_BYTES + (64 << 10)),
]


def credentials(given: argparse.Namespace) -> grpc.ChannelCredentials | None:
    """None for plaintext."""
    if given.ca is None:
        return None
    own = (Path(given.key).read_bytes(), Path(given.cert).read_bytes()) if given.cert else (None, None)
    return grpc.ssl_channel_credentials(Path(given.ca).read_bytes(), *own)


def call(given: argparse.Namespace) -> dict[str, Any]:
    """The keyword arguments of every call: its deadline and the token."""
    # Not as gRPC's call credentials, which it sends over TLS alone: a mesh or a proxy may do that part.
    token = Path(given.token_file).read_text("utf-8").strip() if given.token_file else None
    metadata = (("authorization", f"Bearer {token}"),) if token else None
    return {"timeout": given.deadline_ms / 1000, "metadata": metadata}
