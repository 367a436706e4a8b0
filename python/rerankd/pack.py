"""`rerankd pack`: a checkpoint saved as the kernels take it, so that a server starts by mapping it."""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from rerankd import models, settings
from rerankd.errors import InputError, ModelError

ABOUT: Final = """\
Saves MODEL in OUT, a new directory, with its linear layers in --dtype and in the layout of --kernels: such a
checkpoint is mapped rather than converted when it is loaded, so a server starts in a fraction of the time,
and processes on one machine share its memory. It is served like any other, in that precision alone, on
machines that have those instructions.
"""
# What is copied as it is, where it is there.
_KEPT: Final = (
    "config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "README.md",
)


@dataclass(frozen=True)
class Packed:
    """What was written."""

    directory: Path
    dtype: str
    kernels: str
    bytes: int


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """All but the settings' own flags."""
    parser.add_argument("checkpoint", metavar="MODEL", help="mini-en, a checkpoint's directory, or a hub id")
    parser.add_argument("out", metavar="OUT", help="a directory that does not exist yet")


def run(arguments: argparse.Namespace) -> Packed:
    """Packs as the flags say. Raises InputError for a flag, ModelError for a checkpoint or a directory."""
    resolved = settings.from_flags(arguments)
    return pack(
        arguments.checkpoint,
        Path(arguments.out),
        dtype=resolved.dtype,
        kernels=resolved.kernels,
        emulate=resolved.emulate,
    )


def pack(model: str, out: Path, *, dtype: str, kernels: str = "auto", emulate: bool = False) -> Packed:
    """Saves `model` packed in `out`, whole or not at all. Raises InputError where `out` is there already."""
    from rerankd import _core  # noqa: PLC0415 - the engine is for those who need it

    if os.path.lexists(out):
        raise InputError("out", f"{str(out)!r} is there already; give a directory that does not exist yet")
    source = models.resolve(model).directory
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        # Beside `out`, so that the rename at the end stays within one file system.
        with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}-") as temporary:
            made = Path(temporary) / "packed"
            made.mkdir()
            for name in _KEPT:
                if (source / name).is_file():
                    shutil.copyfile(source / name, made / name)
            done, instructions = _core.pack(
                str(source), str(made), dtype=dtype, kernels=kernels, emulate=emulate
            )
            size = (made / "model.safetensors").stat().st_size
            made.rename(out)
    except OSError as error:
        raise ModelError(f"{error.filename or out}: {error.strerror or error}; nothing was packed") from error
    return Packed(out, done, instructions, size)
