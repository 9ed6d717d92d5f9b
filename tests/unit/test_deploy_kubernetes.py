"""The manifests against the schema that KubeRay publishes, and the image that they run."""

import json
import re
from functools import cache
from typing import Any

import jsonschema
import pytest
import yaml

from tests.checkout import ROOT
from tests.deploy_files import (
    CONTAINER,
    IMAGE,
    MANIFESTS,
    PAGE,
    PINS,
    PYTHON,
    WITH_IMAGE,
    Config,
    cluster_spec,
    content,
    manifest,
    pods,
)


@cache
def published() -> Config:
    return dict(json.loads(content(ROOT / "tests" / "data" / "kuberay" / "crds.json")))


def complaints(resource: Config) -> list[str]:
    """What KubeRay's published schema has against a manifest; fields that it does not name are among it."""
    schema = published()["kinds"][resource["kind"]] | {"$defs": published()["$defs"]}
    errors = jsonschema.Draft202012Validator(schema).iter_errors(resource)
    return [f"{error.json_path}: {error.message}" for error in errors]


@pytest.mark.parametrize("name", MANIFESTS)
def test_kuberay_accepts_the_manifest(name: str) -> None:
    held, copier = manifest(name), manifest("copy")
    assert complaints(held) == []
    # The pod to copy through is none of KubeRay's kinds, but may stand in one of them as any pod may.
    held["spec"].get("rayClusterSpec", held["spec"])["headGroupSpec"]["template"]["spec"] = copier["spec"]
    assert (copier["apiVersion"], copier["kind"]) == ("v1", "Pod") and complaints(held) == []


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("spec.idleTimeoutSeconds", 600),
        ("spec.autoscalerOptions.idleTimeout", 600),
        ("spec.authOptions.mode", "tokens"),
        ("spec.headGroupSpec.template.spec.tolerantions", []),
        ("spec.workerGroupSpecs.0.maxReplicas", "2"),
        ("spec.workerGroupSpecs.1.template.spec.containers.0.volumeMounts.0.path", "/shared"),
        ("spec.workerGroupSpecs.0.template.spec.tolerations.0.tolerationSeconds", "soon"),
        ("spec.headGroupSpec.template.spec.containers.0.resources.limits.memory", "much"),
        ("metadata.nam", "beear"),
        ("apiVersion", "ray.io/v1alpha1"),
    ],
)
def test_the_schema_would_catch_a_mistake(path: str, value: Any) -> None:
    broken = manifest("raycluster")
    *way, last = [int(step) if step.isdigit() else step for step in path.split(".")]
    place: Any = broken
    for step in way:
        place = place[step]
    place[last] = value
    assert complaints(broken) != []


def test_the_job_has_the_standing_clusters_spec() -> None:
    """So that there is one to keep right, and one set of comments."""
    assert cluster_spec(manifest("rayjob")) == cluster_spec(manifest("raycluster"))


def test_what_the_operator_checks_beyond_its_schema() -> None:
    spec = cluster_spec(manifest("raycluster"))
    for name in MANIFESTS:
        assert re.fullmatch(r"[a-z]([-a-z0-9]{0,45}[a-z0-9])?", manifest(name)["metadata"]["name"])
    # Token authentication needs the version to be said; the second autoscaler wants pods that do not restart by themselves.
    assert spec["authOptions"] == {"mode": "token"} and spec["rayVersion"]
    assert spec["autoscalerOptions"]["version"] == "v2" and all("restartPolicy" not in pod for pod in pods(spec))
    workdir = re.findall(r"^WORKDIR (\S+)$", IMAGE, re.MULTILINE)[-1]
    assert yaml.safe_load(manifest("rayjob")["spec"]["runtimeEnvYAML"]) == {"working_dir": workdir}


def test_groups_scale_from_zero_on_spot_nodes_and_the_head_stays_off_them() -> None:
    spec = cluster_spec(manifest("raycluster"))
    assert spec["enableInTreeAutoscaling"] is True and spec["autoscalerOptions"]["idleTimeoutSeconds"] > 0
    for group in spec["workerGroupSpecs"]:
        assert (group["replicas"], group["minReplicas"]) == (0, 0) and group["maxReplicas"] > 0
        tolerated = {toleration["key"] for toleration in group["template"]["spec"]["tolerations"]}
        assert {"nvidia.com/gpu", "cloud.google.com/gke-spot", "kubernetes.azure.com/scalesetpriority"} <= tolerated
        resources = group["template"]["spec"]["containers"][0]["resources"]
        assert resources["limits"]["nvidia.com/gpu"] == "8" and resources["limits"] == resources["requests"]
        # As much as cluster.yaml gives a worker's disk.
        assert resources["limits"]["ephemeral-storage"] == "200Gi"
    head, *workers = (pod["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"] for pod in pods(spec))
    (term,) = head["nodeSelectorTerms"]
    assert len(term["matchExpressions"]) == 4 and {rule["operator"] for rule in term["matchExpressions"]} == {"NotIn"}
    # Rules of one term hold together; of several terms one is enough.
    wanted = [{"matchExpressions": [rule | {"operator": "In"}]} for rule in term["matchExpressions"]]
    assert [worker["nodeSelectorTerms"] for worker in workers] == [wanted, wanted]
    assert "tolerations" not in spec["headGroupSpec"]["template"]["spec"]


def test_every_pod_shares_one_volume_and_is_no_root() -> None:
    claim = manifest("storage")
    assert (claim["apiVersion"], claim["kind"]) == ("v1", "PersistentVolumeClaim")
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]
    for pod in (*pods(cluster_spec(manifest("raycluster"))), manifest("copy")["spec"]):
        assert pod["volumes"] == [{"name": "shared", "persistentVolumeClaim": {"claimName": claim["metadata"]["name"]}}]
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["runAsUser"] == pod["securityContext"]["fsGroup"] == user_id()
        for container in pod["containers"]:
            assert container["volumeMounts"] == [{"name": "shared", "mountPath": "/shared"}]
            assert container["securityContext"] == {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}


def user_id() -> int:
    """The number of the user that the image ends with."""
    (name,) = re.findall(r"^USER (\w+)$", IMAGE, re.MULTILINE)[-1:]
    (number,) = re.findall(rf"useradd --uid (\d+) --create-home {name}$", IMAGE, re.MULTILINE)
    return int(number)


def test_the_image_holds_what_is_pinned_and_no_more_versions() -> None:
    assert f"ARG PYTHON={PYTHON}\n" in IMAGE
    installs = [line for line in IMAGE.splitlines() if "pip install" in line]
    assert len(installs) == 2 and all("-c constraints.txt" in line for line in installs)
    assert "==" not in IMAGE and user_id() > 0


def test_the_image_copies_what_exists_and_what_is_let_through() -> None:
    copied = {word for line in re.findall(r"^COPY (.*) \S+$", IMAGE, re.MULTILINE) for word in line.split()}
    assert {"beear", "pipelines", "tune_spaces"} <= copied and all((ROOT / name).exists() for name in copied)
    ignore = content(ROOT / ".dockerignore").splitlines()
    assert "*" in ignore and {line[1:] for line in ignore if line.startswith("!")} == copied


def test_every_version_of_ray_is_the_pinned_one() -> None:
    (ray,) = re.findall(r"^ray==(\S+)$", PINS, re.MULTILINE)
    texts = {path: content(path) for path in (CONTAINER, PAGE, *WITH_IMAGE)}
    tags = {(path.name, tag) for path, text in texts.items() for tag in re.findall(r"/beear:(\S+)", text)}
    assert {name for name, _ in tags} == {path.name for path in texts}
    assert {tag for _, tag in tags} == {f"ray-{ray}"}
    for name in MANIFESTS:
        spec = cluster_spec(manifest(name))
        assert spec["rayVersion"] == ray
        images = {container["image"] for pod in (*pods(spec), manifest("copy")["spec"]) for container in pod["containers"]}
        assert images == {f"registry.example.com/beear:ray-{ray}"}
