"""Makes kinds/ and crds/: schemas of the kinds that the chart makes, and other projects' kinds as CRDs.

Run by `make chart-kinds`.

They come out of the projects' own Go modules, at the versions below, which `go` downloads and checks by the
checksum database. Descriptions are left out: nobody is to read them here, and they are nine tenths of it.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any, Final

import yaml

HERE: Final = Path(__file__).resolve().parent
KINDS: Final = HERE / "kinds"
CRDS: Final = HERE / "crds"

KUBERNETES: Final = "k8s.io/kubernetes@v1.37.2"
"""As in go/cluster/go.mod, which a test compares."""
OF_KUBERNETES: Final = {
    "api__v1": ("Pod", "Service", "ServiceAccount"),
    "apis__apps__v1": ("Deployment",),
    "apis__autoscaling__v2": ("HorizontalPodAutoscaler",),
    "apis__networking.k8s.io__v1": ("NetworkPolicy",),
    "apis__policy__v1": ("PodDisruptionBudget",),
}
OF_OTHERS: Final = {
    "github.com/kedacore/keda/v2@v2.21.0": "config/crd/bases/keda.sh_scaledobjects.yaml",
    "github.com/prometheus-operator/prometheus-operator@v0.85.0": (
        "example/prometheus-operator-crd/monitoring.coreos.com_podmonitors.yaml"
    ),
    "sigs.k8s.io/gateway-api@v1.6.3": "config/crd/standard/gateway.networking.k8s.io_grpcroutes.yaml",
}


def module(versioned: str) -> Path:
    """The directory of a Go module, downloaded where it is not there yet."""
    command = ["go", "mod", "download", "-json", versioned]
    done = subprocess.run(command, cwd=HERE, stdout=subprocess.PIPE, text=True, check=True)
    return Path(json.loads(done.stdout)["Dir"])


def undescribed(node: Any) -> Any:
    """The schema without its descriptions; a property of that name is a mapping, and stays."""
    if isinstance(node, dict):
        return {
            key: undescribed(value)
            for key, value in node.items()
            if not (key == "description" and isinstance(value, str))
        }
    return [undescribed(each) for each in node] if isinstance(node, list) else node


def closed(node: Any) -> Any:
    """The schema as JSON Schema has it, and refusing keys that it does not know."""
    if isinstance(node, list):
        return [closed(each) for each in node]
    if not isinstance(node, dict):
        return node
    found = {key: closed(value) for key, value in node.items() if not key.startswith("x-kubernetes-")}
    if node.get("x-kubernetes-int-or-string") is True:
        found["type"] = ["integer", "string"]
        found.pop("anyOf", None)
    if isinstance(found.get("properties"), dict) and not node.get("x-kubernetes-preserve-unknown-fields"):
        found.setdefault("additionalProperties", False)
    return found


def standalone(schemas: dict[str, Any], name: str) -> dict[str, Any]:
    """One schema of an OpenAPI document, with those that it refers to."""
    needed: dict[str, Any] = {}
    open_ends = [name]
    while open_ends:
        each = open_ends.pop()
        if each not in needed:
            text = json.dumps(undescribed(schemas[each])).replace("#/components/schemas/", "#/$defs/")
            needed[each] = closed(json.loads(text))
            open_ends += [part.partition('"')[0] for part in text.split('"#/$defs/')[1:]]
    return {**needed.pop(name), "$defs": needed}


def kinds_of_kubernetes() -> dict[str, Any]:
    """kubeconform's file names and the schemas in them, for Kubernetes' own kinds."""
    found = {}
    root = module(KUBERNETES) / "api/openapi-spec/v3"
    for document, kinds in OF_KUBERNETES.items():
        schemas = json.loads((root / f"{document}_openapi.json").read_text("utf-8"))["components"]["schemas"]
        for kind in kinds:
            (name,) = (
                name
                for name, schema in schemas.items()
                if kind in {each["kind"] for each in schema.get("x-kubernetes-group-version-kind", ())}
                and name.endswith(f".{kind}")
            )
            group = schemas[name]["x-kubernetes-group-version-kind"][0]["group"]
            found[file_name(kind, group, document.rpartition("__")[2])] = standalone(schemas, name)
    return found


def file_name(kind: str, group: str, version: str) -> str:
    """As kubeconform looks for it: of the group, the first label."""
    return "-".join(each for each in (kind.lower(), group.partition(".")[0], version) if each) + ".json"


def crds() -> dict[str, Any]:
    """The definitions of other projects' kinds, by the names of their files here."""
    found = {}
    for versioned, path in OF_OTHERS.items():
        document = yaml.safe_load((module(versioned) / path).read_text("utf-8"))
        document.pop("status", None)
        found[f"{document['metadata']['name']}.json"] = undescribed(document)
    return found


def kinds_of(crd: dict[str, Any]) -> dict[str, Any]:
    spec = crd["spec"]
    return {
        file_name(spec["names"]["kind"], spec["group"], version["name"]): closed(
            version["schema"]["openAPIV3Schema"]
        )
        for version in spec["versions"]
        if version["served"]
    }


def write(folder: Path, documents: dict[str, Any]) -> None:
    folder.mkdir(exist_ok=True)
    for old in folder.glob("*.json"):
        old.unlink()
    for name, document in sorted(documents.items()):
        (folder / name).write_text(
            json.dumps(document, sort_keys=True, separators=(",", ":")) + "\n", "utf-8"
        )


if __name__ == "__main__":
    others = crds()
    write(CRDS, others)
    kinds = kinds_of_kubernetes()
    for each in others.values():
        kinds |= kinds_of(each)
    write(KINDS, kinds)
