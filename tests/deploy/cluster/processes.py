"""A control plane of real programs on this machine: etcd, kube-apiserver, those that act on it."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import signal
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import httpx
import trustme

from deploy.cluster.api import Api
from deploy.scenarios import TOOLS

PATIENCE: Final = 300
"""Seconds for whatever is waited for: the machine may be busy with more than this."""

STAGES: Final = Path(__file__).with_name("stages.yaml")
CONTROLLERS: Final = (
    "deployment-controller",
    "disruption-controller",
    "endpointslice-controller",
    "horizontal-pod-autoscaler-controller",
    "replicaset-controller",
    "serviceaccount-controller",
)


class EndedError(AssertionError):
    """A program that ended, and the end of what it logged."""


class Program:
    """One program in the background, its log in a file beside its data."""

    def __init__(self, folder: Path, name: str, *flags: str) -> None:
        self.name = name
        self._log = folder / f"{name}.log"
        program = TOOLS / name
        assert program.is_file(), f"there is no {program}: run make cluster-tools"
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [str(program), *flags],
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=folder,
                # None of the user's own clusters, and no proxy between programs of one machine.
                env={"PATH": os.environ["PATH"], "HOME": str(folder), "NO_PROXY": "*"},
            )

    def check(self) -> None:
        """Raises EndedError if it runs no more."""
        if self._process.poll() is not None:
            raise EndedError(f"{self.name} ended with {self._process.returncode}:\n{self.log()}")

    def log(self) -> str:
        return self._log.read_text("utf-8", "replace")[-5000:]

    def stop(self) -> None:
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return int(listening.getsockname()[1])


def kubeconfig(folder: Path, server: str, token: str) -> Path:
    """How the other programs find the API server; JSON is YAML too."""
    path = folder / "kubeconfig"
    cluster = {"server": server, "certificate-authority": str(folder / "ca.pem")}
    path.write_text(
        json.dumps(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "clusters": [{"name": "test", "cluster": cluster}],
                "users": [{"name": "admin", "user": {"token": token}}],
                "contexts": [{"name": "test", "context": {"cluster": "test", "user": "admin"}}],
                "current-context": "test",
            }
        )
    )
    return path


@contextlib.contextmanager
def api_server(folder: Path) -> Iterator[Api]:
    """etcd and a kube-apiserver that answers; the files of both, and `kubeconfig`, are in the folder."""
    authority = trustme.CA(key_type=trustme.KeyType.ECDSA)
    certificate = authority.issue_cert("127.0.0.1", "localhost", key_type=trustme.KeyType.ECDSA)
    authority.cert_pem.write_to_path(folder / "ca.pem")
    certificate.cert_chain_pems[0].write_to_path(folder / "server.pem")
    certificate.private_key_pem.write_to_path(folder / "server.key")
    token = secrets.token_hex(16)
    (folder / "tokens.csv").write_text(f"{token},admin,1,system:masters\n")
    # A socket, whose path no other program takes; the API server can't listen on one.
    store = f"unix://{folder}/etcd.sock"
    port = free_port()
    with contextlib.ExitStack() as stack:
        etcd = Program(
            folder,
            "etcd",
            f"--data-dir={folder}/etcd",
            f"--listen-client-urls={store}",
            f"--advertise-client-urls={store}",
            f"--listen-peer-urls=unix://{folder}/peer.sock",
            f"--initial-advertise-peer-urls=unix://{folder}/peer.sock",
            f"--initial-cluster=default=unix://{folder}/peer.sock",
            "--unsafe-no-fsync",
        )
        stack.callback(etcd.stop)
        server = Program(
            folder,
            "kube-apiserver",
            f"--etcd-servers={store}",
            "--bind-address=127.0.0.1",
            "--advertise-address=127.0.0.1",
            # Else it makes endpoints of its own address, which may not be the loopback's.
            "--endpoint-reconciler-type=none",
            f"--secure-port={port}",
            f"--tls-cert-file={folder}/server.pem",
            f"--tls-private-key-file={folder}/server.key",
            f"--token-auth-file={folder}/tokens.csv",
            "--authorization-mode=RBAC",
            # Nodes would wait for one more controller, which watches kubelets that are not there.
            "--disable-admission-plugins=TaintNodesByCondition",
            "--service-cluster-ip-range=10.96.0.0/16",
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-account-key-file={folder}/server.key",
            f"--service-account-signing-key-file={folder}/server.key",
        )
        stack.callback(server.stop)
        base = f"https://127.0.0.1:{port}"
        kubeconfig(folder, base, token)
        trusted = ssl.create_default_context(cafile=folder / "ca.pem")
        client = stack.enter_context(
            httpx.Client(
                base_url=base,
                verify=trusted,
                headers={"authorization": f"Bearer {token}"},
                timeout=PATIENCE,
                trust_env=False,
            )
        )
        _ready(client, (etcd, server))
        yield Api(client)


@contextlib.contextmanager
def acting(folder: Path) -> Iterator[None]:
    """What makes pods of a Deployment, puts them on nodes, and has those nodes' kubelets (kwok) run them."""
    config = folder / "kubeconfig"
    with contextlib.ExitStack() as stack:
        programs = [
            Program(
                folder,
                "kube-controller-manager",
                f"--kubeconfig={config}",
                "--leader-elect=false",
                "--secure-port=0",
                f"--controllers={','.join(CONTROLLERS)}",
                "--horizontal-pod-autoscaler-sync-period=2s",
                # Pods here are ready at once, and their load is what a test says.
                "--horizontal-pod-autoscaler-cpu-initialization-period=1s",
                "--horizontal-pod-autoscaler-initial-readiness-delay=1s",
            ),
            Program(
                folder, "kube-scheduler", f"--kubeconfig={config}", "--leader-elect=false", "--secure-port=0"
            ),
            Program(folder, "kwok", f"--kubeconfig={config}", f"--config={STAGES}", "--manage-all-nodes"),
        ]
        for program in programs:
            stack.callback(program.stop)
        yield
        for program in programs:
            program.check()


def _ready(client: httpx.Client, programs: tuple[Program, ...]) -> None:
    deadline = time.monotonic() + PATIENCE
    while True:
        for program in programs:
            program.check()
        with contextlib.suppress(httpx.TransportError):
            if client.get("/readyz").status_code == 200:
                return
        assert time.monotonic() < deadline, "".join(program.log() for program in programs)
        time.sleep(0.2)
