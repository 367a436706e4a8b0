"""metrics.k8s.io for a cluster whose pods run nothing: a load, shared evenly by the pods that are there."""

from __future__ import annotations

import contextlib
import datetime
import json
import ssl
import threading
import urllib.parse
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final

from deploy.cluster.api import Api, until

GROUP: Final = "metrics.k8s.io"
VERSION: Final = f"{GROUP}/v1beta1"


@contextlib.contextmanager
def served(api: Api, folder: Path, usage: Callable[[str], dict[str, int]]) -> Iterator[None]:
    """Has the API server answer for the metrics API: millicores by pod, as `usage` says of a namespace."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = urllib.parse.urlsplit(self.path).path
            parts = path.strip("/").split("/")
            if path == f"/apis/{VERSION}":
                found = RESOURCES
            elif path.startswith(f"/apis/{VERSION}/namespaces/") and parts[5:] == ["pods"]:
                found = pod_metrics(usage(parts[4]))
            else:
                self.send_error(404)
                return
            body = json.dumps(found).encode()
            self.send_response(200)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "server.pem", folder / "server.key")
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        register(api, server.server_address[1])
        yield
    finally:
        server.shutdown()
        server.server_close()


RESOURCES: Final[dict[str, Any]] = {
    "kind": "APIResourceList",
    "apiVersion": "v1",
    "groupVersion": VERSION,
    "resources": [
        {
            "name": "pods",
            "singularName": "",
            "namespaced": True,
            "kind": "PodMetrics",
            "verbs": ["get", "list"],
        }
    ],
}


def pod_metrics(millicores: dict[str, int]) -> dict[str, Any]:
    now = datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
    return {
        "kind": "PodMetricsList",
        "apiVersion": VERSION,
        "metadata": {},
        "items": [
            {
                "metadata": {"name": name},
                "timestamp": now,
                "window": "1s",
                "containers": [{"name": "rerankd", "usage": {"cpu": f"{used}m", "memory": "1Gi"}}],
            }
            for name, used in millicores.items()
        ],
    }


def register(api: Api, port: int) -> None:
    """An APIService that leads to this machine's own address."""
    service = {"name": "metrics", "namespace": "default", "port": port}
    api.apply(
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": "metrics", "namespace": "default"},
            "spec": {"type": "ExternalName", "externalName": "localhost", "ports": [{"port": port}]},
        }
    )
    api.apply(
        {
            "apiVersion": "apiregistration.k8s.io/v1",
            "kind": "APIService",
            "metadata": {"name": f"v1beta1.{GROUP}"},
            "spec": {
                "group": GROUP,
                "version": "v1beta1",
                "groupPriorityMinimum": 100,
                "versionPriority": 100,
                "service": service,
                "insecureSkipTLSVerify": True,
            },
        }
    )
    path = f"/apis/apiregistration.k8s.io/v1/apiservices/v1beta1.{GROUP}"
    until(
        "the metrics API",
        lambda: any(
            each["type"] == "Available" and each["status"] == "True"
            for each in api.get(path).get("status", {}).get("conditions", ())
        ),
    )
