"""The chart's schema: a value that is unknown or not legal stops Helm with where it is."""

from __future__ import annotations

import pytest

from deploy.scenarios import template


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("replicaCount=3", "additional properties 'replicaCount' not allowed"),
        ("image.tags=1", "at '/image': additional properties 'tags' not allowed"),
        ("settings.queue_token=5", "at '/settings': additional properties 'queue_token' not allowed"),
        ("settings.model=mini-en", "at '/settings': additional properties 'model' not allowed"),
        ("settings.drain_seconds=null", "at '/settings': missing property 'drain_seconds'"),
        ("settings.reflection=maybe", "at '/settings/reflection': got string, want boolean"),
        ("autoscaling.by=both", "at '/autoscaling/by': value must be one of 'none', 'keda', 'hpa'"),
        ("autoscaling.keda.queueTokens=0", "at '/autoscaling/keda/queueTokens'"),
        ("resources.cpu=1500m", "at '/resources/cpu': got string, want integer"),
        ("resources.cpu=0", "at '/resources/cpu': minimum: got 0, want 1"),
        ("podSecurityContext.runAsUser=0", "at '/podSecurityContext/runAsUser': minimum"),
        ("models[0].path=../secrets", "at '/models/0"),
        ("models[0].name=a", "at '/models/0"),
        ("models[0].embedded=mini-de", "at '/models/0"),
        ("extraEnv[0].name=RERANKD_MODEL", "at '/extraEnv/0/name'"),
        ("tolerations[0].kye=a", "at '/tolerations/0': additional properties 'kye' not allowed"),
        ("networkPolicy.callers[0].podSelektor.a=b", "at '/networkPolicy/callers/0': additional properties"),
        ("spreadByZone=Always", "at '/spreadByZone': value must be one of"),
    ],
)
def test_the_schema_says_where(setting: str, said: str) -> None:
    done = template("--set", setting)
    assert done.returncode != 0
    assert said in done.stdout


def test_a_digest_of_another_length_is_refused() -> None:
    done = template("--set", r"models[0].path=a,models[0].sha256.model\.safetensors=abc")
    assert done.returncode != 0
    assert "at '/models/0" in done.stdout
