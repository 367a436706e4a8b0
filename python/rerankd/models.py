"""From a model's name to a checkpoint's directory. The only module that may download.

A name is one of
- `mini-en`, which is embedded in the package;
- a directory that holds a checkpoint (`./mini-en`, where one would hide behind the embedded name);
- a hub id, `org/name` or `org/name@revision`: the hub's local cache first, then the network. What is cached
  is used as it is, without asking the hub for a newer one; a revision pins it.

huggingface_hub reads its own environment (HF_HUB_OFFLINE, HF_HOME, HF_TOKEN, HF_ENDPOINT); nothing here does.
"""

from __future__ import annotations

import difflib
import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from rerankd.errors import ModelError

EMBEDDED: Final = ("mini-en",)
DEFAULT: Final = "mini-en"

# Names that hosted services give to checkpoints of the hub; clients written for those keep working.
HOSTED_NAMES: Final = {"@cf/baai/bge-reranker-base": "BAAI/bge-reranker-base"}

_EMBEDDED_ROOT: Final = Path(__file__).parent / "models"
_HUB_ID: Final = re.compile(r"(?P<id>[A-Za-z0-9][\w.-]*/[A-Za-z0-9_][\w.-]*)(?:@(?P<revision>[\w./-]+))?")
_FILES: Final = (
    "config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "*.safetensors",
    "*.safetensors.index.json",
)
# The patterns above match in folders too, and those hold other formats (onnx/, openvino/) or old checkpoints.
_NOT_FILES: Final = ("*/*",)


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint on this machine."""

    name: str
    """What it is served as."""
    directory: Path
    aliases: tuple[str, ...] = ()
    """Other names that mean it."""
    revision: str = ""
    """The hub's commit; "" where only the engine's digest of the files can tell."""


def resolve(name: str) -> Checkpoint:
    """Finds a model, and downloads it where it has to. Raises ModelError that says what to do."""
    if name in EMBEDDED:
        return Checkpoint(name, _EMBEDDED_ROOT / name)
    path = Path(os.path.expanduser(name))
    if name and path.is_dir():
        return Checkpoint(path.resolve().name, path.resolve())
    if path.is_file():
        raise ModelError(f"{name!r} is a file; give the directory that holds the checkpoint")
    hub_id = _HUB_ID.fullmatch(HOSTED_NAMES.get(name, name))
    if hub_id is None:
        raise ModelError(_not_a_model(name))
    return _from_hub(hub_id["id"], hub_id["revision"])


def embedded() -> list[Checkpoint]:
    """The checkpoints inside the package."""
    return [resolve(name) for name in EMBEDDED]


def cached() -> list[Checkpoint]:
    """The cross-encoders in the hub's local cache, by name: snapshots that hold all the files of one."""
    from huggingface_hub import scan_cache_dir  # noqa: PLC0415 - slow to import
    from huggingface_hub.errors import CacheNotFound  # noqa: PLC0415

    try:
        repos = scan_cache_dir().repos
    except CacheNotFound:
        return []
    found = [
        _hub_checkpoint(repo.repo_id, revision.snapshot_path)
        for repo in repos
        if repo.repo_type == "model"
        for revision in repo.revisions
        if not _missing(revision.snapshot_path) and _classifies(revision.snapshot_path)
    ]
    return sorted(found, key=lambda checkpoint: (checkpoint.name, checkpoint.revision))


def _from_hub(hub_id: str, revision: str | None) -> Checkpoint:
    from huggingface_hub import constants  # noqa: PLC0415 - slow to import, and mostly not needed

    directory = _snapshot(hub_id, revision, local_only=True)
    if directory is None and not constants.HF_HUB_OFFLINE:
        directory = _snapshot(hub_id, revision, local_only=False)
    if directory is None:
        raise ModelError(
            f"{hub_id!r} is not in the local cache ({constants.HF_HUB_CACHE}), and HF_HUB_OFFLINE forbids to "
            "download it; unset that, or give a checkpoint's directory, or use the embedded mini-en"
        )
    missing = _missing(directory)
    if missing:
        raise ModelError(f"{hub_id!r} has no {missing}; rerankd serves safetensors with a tokenizer.json")
    return _hub_checkpoint(hub_id, directory)


def _snapshot(hub_id: str, revision: str | None, *, local_only: bool) -> Path | None:
    """A snapshot's directory; None where `local_only` and the cache does not hold all of it."""
    from huggingface_hub import constants, errors, snapshot_download  # noqa: PLC0415

    wanted = f"{hub_id}@{revision}" if revision else hub_id
    try:
        path = snapshot_download(
            hub_id,
            revision=revision,
            allow_patterns=list(_FILES),
            ignore_patterns=list(_NOT_FILES),
            local_files_only=local_only,
        )
    except errors.GatedRepoError as error:
        raise ModelError(
            f"{wanted!r} is gated: accept its terms on {constants.ENDPOINT}/{hub_id}, and set HF_TOKEN"
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise ModelError(
            f"there is no model {wanted!r} on {constants.ENDPOINT}, or it is private and HF_TOKEN does not "
            "open it; nor is it a directory here"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise ModelError(f"{hub_id!r} has no revision {revision!r} on {constants.ENDPOINT}") from error
    except errors.HFValidationError as error:
        raise ModelError(_not_a_model(wanted)) from error
    except (errors.LocalEntryNotFoundError, OSError) as error:
        if local_only:
            return None
        raise ModelError(
            f"{wanted!r} is not in the local cache, and {constants.ENDPOINT} can't be reached "
            f"({_first_line(error)}); check the network, or give a checkpoint's directory, or use the "
            "embedded mini-en"
        ) from error
    directory = Path(path)
    return None if local_only and _missing(directory) else directory


def _hub_checkpoint(hub_id: str, snapshot: Path) -> Checkpoint:
    hosted = [alias for alias, target in HOSTED_NAMES.items() if target == hub_id]
    # A snapshot's folder is named by its commit.
    return Checkpoint(hub_id, snapshot, (hub_id.rpartition("/")[2], *hosted), snapshot.name)


def _missing(directory: Path) -> str:
    """The first file that a checkpoint needs and that is not here; "" where all are."""
    for name in ("config.json", "tokenizer.json"):
        if not (directory / name).is_file():
            return name
    index = directory / "model.safetensors.index.json"
    if not index.is_file():
        return "" if any(directory.glob("*.safetensors")) else "*.safetensors"
    try:
        shards = set(json.loads(index.read_text("utf-8"))["weight_map"].values())
    except (ValueError, KeyError, AttributeError, TypeError):
        return ""  # present but broken: the engine says how
    return next(
        (str(shard) for shard in sorted(shards, key=str) if not (directory / str(shard)).is_file()), ""
    )


def _classifies(directory: Path) -> bool:
    """Whether config.json is that of a cross-encoder: what else the cache holds can't be served."""
    try:
        architectures = json.loads((directory / "config.json").read_text("utf-8"))["architectures"]
        return any(str(name).endswith("ForSequenceClassification") for name in architectures)
    except (ValueError, KeyError, TypeError, OSError):
        return False


def _not_a_model(name: str) -> str:
    known = [*EMBEDDED, *HOSTED_NAMES, *HOSTED_NAMES.values()]
    short = {each.rpartition("/")[2].lower(): each for each in known}
    close = difflib.get_close_matches(name.lower(), short, n=1)
    hint = f"; did you mean {short[close[0]]}?" if close else f"; embedded: {', '.join(EMBEDDED)}"
    return f"{name!r} is neither an embedded model, nor a directory here, nor a hub id as org/name{hint}"


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
