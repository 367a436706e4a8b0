"""As much of a Kubernetes client as the tests need: objects are dicts, paths as the server tells them."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

import httpx

_T = TypeVar("_T")
FIELD_MANAGER: Final = "tests"


@dataclass
class RefusedError(Exception):
    """What the API server answers instead of doing as it was told."""

    code: int
    message: str
    body: dict[str, Any] = field(repr=False)

    def __str__(self) -> str:
        return f"{self.code}: {self.message}"


@dataclass
class Applied:
    """An object as the server has it now, and what it warned of."""

    object: dict[str, Any]
    warnings: list[str]


class Api:
    """An API server, asked as an administrator."""

    def __init__(self, client: httpx.Client) -> None:
        self._client = client
        self._resources: dict[tuple[str, str], tuple[str, bool]] = {}

    def apply(self, document: dict[str, Any], dry_run: bool = False, force: bool = False) -> Applied:
        """Server-side apply, unknown and doubled fields refused. Raises RefusedError."""
        parameters = {"fieldManager": FIELD_MANAGER, "fieldValidation": "Strict", "force": str(force).lower()}
        if dry_run:
            parameters["dryRun"] = "All"
        response = self._client.patch(
            self._path_of(document),
            params=parameters,
            json=document,
            headers={"content-type": "application/apply-patch+yaml"},
        )
        return Applied(_body(response), response.headers.get_list("warning"))

    def get(self, path: str) -> dict[str, Any]:
        """What is at a path of the API. Raises RefusedError."""
        return _body(self._client.get(path))

    def items(self, path: str, selector: str = "") -> list[dict[str, Any]]:
        body = _body(self._client.get(path, params={"labelSelector": selector}))
        found: list[dict[str, Any]] = body["items"]
        return found

    def post(self, path: str, document: dict[str, Any]) -> dict[str, Any]:
        return _body(self._client.post(path, json=document))

    def merge(self, path: str, change: dict[str, Any]) -> dict[str, Any]:
        """A merge patch. Raises RefusedError."""
        content = {"content-type": "application/merge-patch+json"}
        return _body(self._client.patch(path, json=change, headers=content))

    def _path_of(self, document: dict[str, Any]) -> str:
        version, kind = document["apiVersion"], document["kind"]
        root = f"/apis/{version}" if "/" in version else f"/api/{version}"
        if (version, kind) not in self._resources:
            for each in self.get(root)["resources"]:
                if "/" not in each["name"]:
                    self._resources[version, each["kind"]] = (each["name"], each["namespaced"])
        plural, namespaced = self._resources[version, kind]
        name = document["metadata"]["name"]
        if not namespaced:
            return f"{root}/{plural}/{name}"
        return f"{root}/namespaces/{document['metadata']['namespace']}/{plural}/{name}"


def until(what: str, look: Callable[[], _T | None], patience: float = 300) -> _T:
    """What `look` finds, once it is something; AssertionError after so many seconds of nothing."""
    deadline = time.monotonic() + patience
    while True:
        found = look()
        if found:
            return found
        assert time.monotonic() < deadline, f"not seen in {patience} s: {what}"
        time.sleep(0.1)


def _body(response: httpx.Response) -> dict[str, Any]:
    try:
        body: dict[str, Any] = response.json()
    except ValueError:
        body = {"message": response.text}
    if response.is_error:
        raise RefusedError(response.status_code, body.get("message", ""), body)
    return body
