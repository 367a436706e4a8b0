"""Prints deploy/kubernetes.yaml: what the chart makes, for those who have no Helm.

Run by `make chart`.
"""

from __future__ import annotations

import re
import sys
from typing import Final

from deploy.scenarios import CHART, RELEASE, SCENARIOS, run

HEADER: Final = """\
# rerankd on Kubernetes 1.30 or later: kubectl apply -f deploy/kubernetes.yaml
# Made from deploy/helm/rerankd by `make chart`. Passes Pod Security `restricted`. Edit the image, the models
# and the resources; docs/deploy.md says how.
"""
LEFT_OUT: Final = re.compile(r"# Source: | *(helm\.sh/chart|app\.kubernetes\.io/managed-by): |  namespace: ")


def made() -> str:
    """The manifest: the namespace is that of whoever applies it, and nothing says that Helm was here."""
    done = run("helm", "template", RELEASE, str(CHART), "--skip-tests", "--values", str(SCENARIOS["plain"]))
    if done.returncode:
        raise SystemExit(done.stdout)
    # Blank lines come of how Helm joins documents.
    kept = [line for line in done.stdout.splitlines() if line and not LEFT_OUT.match(line)]
    return HEADER + "\n".join(kept).removeprefix("---\n") + "\n"


if __name__ == "__main__":
    sys.stdout.write(made())
