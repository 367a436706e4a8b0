"""A server for a bench that was given none: another process, on a free port of this machine."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import IO, Any, Final

from rerankd import settings
from rerankd.errors import InputError, RerankdError

FLAGS: Final = (
    "model",
    "device",
    "dtype",
    "threads",
    "kernels",
    "emulate",
    "max_tokens",
    "queue_tokens",
    "wave_tokens",
    "gpu_wave_tokens",
)
"""The settings that it takes from the bench's own command line."""

_NONE: Final = ""
_SERVING: Final = re.compile(r"serving gRPC on (\S+:[0-9]+)$")
# Seconds for a server that has been told to stop; then it is killed.
_PATIENCE: Final = 10.0


def command(flags: Mapping[str, Any]) -> list[str]:
    """How it is started. flags: what was said on the command line, by the setting's name, and what else is
    there, which is left out."""
    words = [sys.executable, "-m", "rerankd", "serve"]
    # A port of its own for gRPC; none of the others, whatever the settings have them at.
    for name, knob in settings.declared().items():
        if knob.kind.metavar == "HOST:PORT":
            words.append(f"{settings.flag(name)}={'127.0.0.1:0' if name == 'grpc' else _NONE}")
        # Nobody else calls it, and what is measured is neither TLS nor tokens.
        elif knob.group == "Security":
            words.append(f"{settings.flag(name)}={_NONE}")
    words += ["--log-level=info", "--log-format=text", "--drain-seconds=0", "--grace-seconds=0"]
    for name in ("config", *FLAGS):
        if name not in flags:
            continue
        value = flags[name]
        if isinstance(value, bool):
            words.append(settings.flag(name) if value else settings.flag(name).replace("--", "--no-", 1))
        else:
            words += [
                f"{settings.flag(name)}={each}" for each in ([value] if isinstance(value, str) else value)
            ]
    return words


@contextmanager
def running(flags: Mapping[str, Any]) -> Iterator[tuple[str, int]]:
    """A server that serves: its address and its process. It is stopped in the end.

    Raises InputError where it refuses a setting, RerankdError where it can't start otherwise.
    """
    # In a session of its own: Ctrl-C on the terminal is for the bench, which has figures to print yet.
    with subprocess.Popen(
        command(flags), stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        assert process.stderr is not None
        reading: list[threading.Thread] = []
        try:
            address = _address(process.stderr, process)
            # Somebody must read what it goes on to say, or one day it can say nothing more, and stops.
            reading.append(threading.Thread(target=deque, args=(process.stderr, 0), name="server log"))
            reading[0].start()
            yield address, process.pid
        finally:
            process.terminate()
            try:
                process.wait(_PATIENCE)
            except subprocess.TimeoutExpired:
                process.kill()
            for thread in reading:
                thread.join()


def _address(log: IO[str], process: subprocess.Popen[str]) -> str:
    last = ""
    for line in log:
        last = line.strip()
        if found := _SERVING.search(last):
            return found[1]
    code = process.wait()
    sentence = "the bench's own server did not start: "
    sentence += last.removeprefix("rerankd serve: ") or f"it ended with code {code}"
    raise InputError("", sentence) if code == 2 else RerankdError(sentence)
