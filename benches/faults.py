"""What befalls a server: each fault does its harm, says what it saw, and leaves the server serving."""

import asyncio
import signal
import ssl
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import trustme

from benches.process import Process
from benches.quota import quota

PAUSE: Final = 5.0
"""Seconds for which a server is frozen, or starved."""
AWAY: Final = 1.0
"""Seconds from a kill to the new start."""
QUOTA: Final = 0.05
"""Of one core, what a starved server is left."""
BOUND: Final = 10.0
"""Seconds within which all is to be well again."""


@dataclass(frozen=True)
class Blow:
    """When it was, by time.monotonic, that calls had to be answered again: a fault's end, or its moment."""

    since: float
    seen: str = ""


async def pause(server: Process) -> Blow:
    """SIGSTOP, and SIGCONT a while later."""
    server.send(signal.SIGSTOP)
    await asyncio.sleep(PAUSE)
    server.send(signal.SIGCONT)
    return Blow(time.monotonic())


async def kill(server: Process) -> Blow:
    """SIGKILL; a moment later it is started again, as its supervisor would."""
    since = time.monotonic()
    await asyncio.to_thread(server.kill)
    await asyncio.sleep(AWAY)
    server.start()
    await asyncio.to_thread(server.wait)
    serving = time.monotonic()
    # That it serves is one thing; that clients come back to it another.
    while not await asyncio.to_thread(server.metric, "rerankd_pairs_total"):
        if time.monotonic() - serving > 2 * BOUND:
            return Blow(since, "clients never came back to it")
        await asyncio.sleep(0.05)
    return Blow(since, f"asked again {time.monotonic() - serving:.1f} s after it served again")


async def starve(server: Process) -> Blow:
    """Leaves it next to none of the CPU for a while."""
    with quota("rerankd-chaos") as group:
        group.add(server.pid)
        group.limit(QUOTA)
        await asyncio.sleep(PAUSE)
        group.lift()
        since = time.monotonic()
        throttled = group.throttled()
    return Blow(since, f"throttled {throttled} times")


class Authority:
    """Makes certificates, and keeps a server's where it looks for them."""

    def __init__(self, directory: Path) -> None:
        self._ca = trustme.CA()
        self.ca = directory / "ca.pem"
        self.cert, self.key = directory / "cert.pem", directory / "key.pem"
        self._ca.cert_pem.write_to_path(str(self.ca))
        self.renew()

    @property
    def flags(self) -> tuple[str, str]:
        return f"--tls-cert={self.cert}", f"--tls-key={self.key}"

    def renew(self) -> str:
        """A new certificate in the place of the old; returned in DER's hexadecimal."""
        made = self._ca.issue_cert("127.0.0.1")
        for path, blob in ((self.key, made.private_key_pem), (self.cert, made.cert_chain_pems[0])):
            new = path.with_suffix(".new")
            blob.write_to_path(str(new))
            new.replace(path)
        return ssl.PEM_cert_to_DER_cert(made.cert_chain_pems[0].bytes().decode()).hex()

    async def swap(self, server: Process) -> Blow:
        """Renews the certificate, and waits until new connections meet it."""
        new = self.renew()
        since = time.monotonic()
        while await asyncio.to_thread(shown, server.port) != new:
            if time.monotonic() - since > 2 * BOUND:
                return Blow(since, "the new one is never shown")
            await asyncio.sleep(0.05)
        return Blow(since, f"shown after {time.monotonic() - since:.1f} s")


def shown(port: int) -> str:
    """The certificate that a new connection meets."""
    pem = ssl.get_server_certificate(("127.0.0.1", port), timeout=30)
    return ssl.PEM_cert_to_DER_cert(pem).hex()
