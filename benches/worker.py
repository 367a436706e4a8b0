"""The driver's side of a contender's process, and what the driver needs to know of contenders."""

import json
import select
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benches import environment
from benches.contenders import GRAPHS, OPENVINO, RERANKD, CannotRunError, Groups


class TooSlowError(Exception):
    """The answer did not come in the time allowed; the process has been ended."""


class Worker:
    """A contender's process. `ask` blocks until it answers."""

    def __init__(self, name: str, checkpoint: Path, groups: Path, threads: int, peers_python: Path) -> None:
        python = sys.executable if name in RERANKD else str(peers_python)
        command = [python, "-W", "ignore", "-m", "benches.contenders", name, str(checkpoint), str(groups)]
        self.name = name
        self.process = subprocess.Popen(
            [*command, "--threads", str(threads)],
            cwd=environment.ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        why = self.read().get("cannot")
        if why is not None:
            self.close()
            raise CannotRunError(why)

    def read(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.name}: ended with {self.process.wait()}; its own message is above")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def ask(self, do: str, batch: int = 1, limit: float | None = None) -> dict[str, Any]:
        """`limit`: seconds to wait for the answer."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps({"do": do, "batch": batch}) + "\n")
        self.process.stdin.flush()
        if not select.select([self.process.stdout], [], [], limit)[0]:
            self.process.kill()
            self.close()
            raise TooSlowError
        return self.read()

    def logits(self, batch: int, limit: float | None = None) -> npt.NDArray[np.float64]:
        return np.array(self.ask("score", batch, limit)["logits"])

    def close(self) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()


def folders(names: list[str]) -> set[str]:
    """What has to be made of a checkpoint for these contenders: keys of environment.MADE_BY."""
    files = [*(GRAPHS[name] for name in names if name in GRAPHS)]
    files += [OPENVINO[name][1] for name in names if name in OPENVINO]
    return {Path(file).parts[0] for file in files}


def write(groups: Groups, path: Path) -> Path:
    """The pairs, where the contenders' processes read them."""
    path.write_text(json.dumps(groups), encoding="utf-8")
    return path
