"""What a search has chosen, kept in a file, so that the next run need not search again."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True)
class Choice:
    """A peer's fastest way of running, and its batch size."""

    way: str
    batch: int


class Choices:
    """Those of one workload, in a JSON file of many; nothing is kept where there is no file's name."""

    def __init__(self, path: Path | None, workload: str) -> None:
        self._path, self._workload = path, workload
        self.known = bool(self._read().get(workload))
        """Whether any was kept by an earlier run."""

    def _read(self) -> dict[str, dict[str, dict[str, str | int]]]:
        if self._path is None or not self._path.exists():
            return {}
        kept: dict[str, dict[str, dict[str, str | int]]] = json.loads(self._path.read_text(encoding="utf-8"))
        return kept

    def get(self, peer: str) -> Choice | None:
        found = self._read().get(self._workload, {}).get(peer)
        return None if found is None else Choice(str(found["way"]), int(found["batch"]))

    def keep(self, peer: str, choice: Choice) -> None:
        if self._path is None:
            return
        kept = self._read()
        kept.setdefault(self._workload, {})[peer] = asdict(choice)
        self._path.write_text(json.dumps(kept, indent=2) + "\n", encoding="utf-8")
