"""How a command asks a server: its flags, and the client that they make."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any, TypeVar

from rerankd import settings
from rerankd.errors import InputError

if TYPE_CHECKING:
    from rerankd.client import Client
    from rerankd.target import Target

_Target = TypeVar("_Target", bound="Target")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds --target and --timeout. The settings of settings.of_client are for the caller to add."""
    parser.add_argument("--target", metavar="HOST:PORT", help="ask this server")
    parser.add_argument(
        "--timeout", type=float, default=60.0, metavar="SECONDS", help="for the server's answer; default: 60"
    )


def refuse_without_target(arguments: argparse.Namespace) -> None:
    """Raises InputError for a flag that says how to ask a server where none is asked."""
    for name in settings.of_client():
        if arguments.target is None and name in arguments:
            raise InputError(settings.flag(name), "is for asking a server; say which with --target")


def client(arguments: argparse.Namespace) -> Client:
    """For the server that --target names. Raises InputError for a setting, or a file that it names."""
    # gRPC, and what else is slow to import, is for those who ask a server.
    from rerankd.client import Client  # noqa: PLC0415

    return secured(arguments, Client, timeout=arguments.timeout)


def secured(arguments: argparse.Namespace, kind: type[_Target], **options: Any) -> _Target:
    """As `client`, for what else asks a server. options: of that kind, but for those that settings give."""
    from rerankd.auth import read_tokens  # noqa: PLC0415 - as in `client`

    resolved = settings.from_flags(arguments)
    file = resolved.target_token_file
    token = read_tokens(file, "target_token_file")[0] if file else None
    try:
        return kind(
            arguments.target,
            tls=resolved.target_tls,
            ca=resolved.target_ca or None,
            cert=resolved.target_cert or None,
            key=resolved.target_key or None,
            token=token,
            **options,
        )
    except InputError as error:
        # The files' names as this command knows them.
        known = error.field in ("ca", "cert", "key")
        raise InputError(f"target_{error.field}" if known else error.field, error.message) from None
