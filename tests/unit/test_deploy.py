"""What runs elsewhere and not here: cluster.yaml, deploy/ and docs/cluster.md, held against what others publish of them."""

import copy
import inspect
import json
import re
import runpy
import shlex
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from ray.autoscaler._private import commands
from ray.autoscaler._private.aws import config as ray_aws
from ray.autoscaler._private.util import prepare_config, validate_config

from beear.config.cli import parse
from beear.errors import UserError
from tests.imports import ROOT

LAUNCHER = ROOT / "cluster.yaml"
CONTAINER = ROOT / "deploy" / "Containerfile"
KUBERAY = ROOT / "deploy" / "kuberay"
PAGE = ROOT / "docs" / "cluster.md"
MANIFESTS = ("raycluster", "rayjob")
WITH_IMAGE = tuple(KUBERAY / f"{name}.yaml" for name in (*MANIFESTS, "copy"))
VARIANT = re.compile(r"^# >>> variant: (\w+)\n(.*?)^# <<<$", re.MULTILINE | re.DOTALL)

Config = dict[str, Any]


def content(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def in_order(whole: str, parts: str) -> bool:
    return re.search(".*".join(map(re.escape, parts.split(" … "))), whole, re.DOTALL) is not None


PINS = content(ROOT / "constraints.txt")
PYTHON = re.findall(r"Python (3\.\d+)", PINS)[0]
IMAGE = "\n".join(line for line in content(CONTAINER).splitlines() if not line.startswith("#"))


def variants() -> dict[str, Config]:
    """The commented variants, each laid over the file: its keys replace those of the same name."""
    whole = yaml.safe_load(content(LAUNCHER))
    found = {"aws": whole}
    for name, block in VARIANT.findall(content(LAUNCHER)):
        lines = block.splitlines()
        assert all(line == "#" or line.startswith("# ") for line in lines)
        found[name] = whole | yaml.safe_load("\n".join(line[2:] for line in lines))
    return found


def prepared(config: Config) -> Config:
    """What `ray up` makes of a file before it asks a cloud for anything; it raises where Ray would refuse."""
    ready = prepare_config(copy.deepcopy(config))
    validate_config(ready)
    return ready


def kinds_with_gpus(config: Config) -> dict[str, Config]:
    return {name: kind for name, kind in config["available_node_types"].items() if kind["resources"].get("GPU")}


@pytest.fixture(scope="module", params=["aws", "gcp", "local"])
def launcher(request: pytest.FixtureRequest) -> Config:
    return variants()[request.param]


def test_ray_accepts_the_file(launcher: Config) -> None:
    assert {name: config["provider"]["type"] for name, config in variants().items()} == {n: n for n in ("aws", "gcp", "local")}
    ready = prepared(launcher)
    # What Ray's schema leaves open at the top it closes here: an unknown key is a typing mistake.
    with pytest.raises(jsonschema.ValidationError, match="idle_timeout_minuts"):
        validate_config(ready | {"idle_timeout_minuts": 5})
    broken = copy.deepcopy(ready)
    next(iter(broken["available_node_types"].values()))["min_worker"] = 0
    with pytest.raises(jsonschema.ValidationError, match="min_worker"):
        validate_config(broken)


def test_nothing_but_the_head_runs_before_a_job_asks() -> None:
    for name in ("aws", "gcp"):
        ready = prepared(variants()[name])
        kinds = ready["available_node_types"]
        assert {kind["min_workers"] for kind in kinds.values()} == {0}
        assert kinds[ready["head_node_type"]]["max_workers"] == 0
        assert all(0 < kind["max_workers"] <= ready["max_workers"] for kind in kinds_with_gpus(ready).values())
        assert 0 < ready["idle_timeout_minutes"] <= 30


def test_workers_are_spot_and_the_head_is_not() -> None:
    aws, gcp = prepared(variants()["aws"]), prepared(variants()["gcp"])
    assert len(kinds_with_gpus(aws)) == 2
    for kind in kinds_with_gpus(aws).values():
        assert kind["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"}
    for kind in kinds_with_gpus(gcp).values():
        assert {"preemptible": True} in kind["node_config"]["scheduling"]
    for config, key in ((aws, "InstanceMarketOptions"), (gcp, "scheduling")):
        head = config["available_node_types"][config["head_node_type"]]
        assert key not in head["node_config"] and "GPU" not in head["resources"]


def test_aws_would_know_every_field_of_a_machine() -> None:
    """Against the interface that the pinned boto3 carries, the one Ray itself uses; nothing is asked of a cloud."""
    boto3, botocore = ray_aws.boto3, ray_aws.botocore
    client = boto3.client("ec2", region_name="us-west-2", aws_access_key_id="none", aws_secret_access_key="none")
    shape = client.meta.service_model.operation_model("RunInstances").input_shape

    def mistakes(machine: Config) -> str:
        count = {"MinCount": 1, "MaxCount": 1}
        return str(botocore.validate.ParamValidator().validate(machine | count, shape).generate_report())

    machines = [kind["node_config"] for kind in variants()["aws"]["available_node_types"].values()]
    assert [mistakes(machine) for machine in machines] == [""] * 3
    assert "InstanceTyp" in mistakes(machines[0] | {"InstanceTyp": "m7i.4xlarge"})
    assert {machine["MetadataOptions"]["HttpTokens"] for machine in machines} == {"required"}
    assert f"`{ray_aws.DEFAULT_RAY_IAM_ROLE}`" in content(PAGE)


def test_priority_decides_between_kinds_of_gpu() -> None:
    """The autoscaler looks at it after what a node would leave idle, so that must be the same."""
    aws = kinds_with_gpus(variants()["aws"]).values()
    groups = manifest("raycluster")["spec"]["workerGroupSpecs"]
    limits = [group["template"]["spec"]["containers"][0]["resources"]["limits"] for group in groups]
    for shapes, priorities in (
        ([kind["resources"] for kind in aws], [kind["priority"] for kind in aws]),
        (limits, [group["priority"] for group in groups]),
    ):
        assert len(priorities) == 2 and len(set(priorities)) == 2
        assert all(shape == shapes[0] for shape in shapes)


def test_no_ray_starts_without_the_token(launcher: Config) -> None:
    ready = prepared(launcher)
    lines = [line for name, lines in ready.items() if name.endswith("_commands") for line in lines]
    starts = [line for line in lines if "ray start" in line]
    assert len(starts) == 2 and all("RAY_AUTH_MODE=token ray start" in line for line in starts)
    assert "/home/ubuntu/.ray/auth_token" in ready["file_mounts"]
    assert "--dashboard-host=127.0.0.1" in next(line for line in starts if "--head" in line)


def test_packages_come_from_lists_that_a_fresh_image_has_not(launcher: Config) -> None:
    installs = [line for line in launcher["head_setup_commands"] + launcher["worker_setup_commands"] if "apt-get" in line]
    assert len(installs) == (0 if launcher["provider"]["type"] == "local" else 2)
    steps = (
        "apt-get update && break … sudo DEBIAN_FRONTEND=noninteractive NEEDRESTART_MODE=a apt-get … Lock::Timeout … install -y"
    )
    assert all(in_order(line, steps) for line in installs)
    # Google's images get their driver at first boot as well, and torch's build is chosen by it.
    first = variants()["gcp"]["setup_commands"][0]
    assert in_order(first, "/sys/bus/pci/devices … timeout 900 … until nvidia-smi")


def test_nodes_get_what_the_project_declares_and_pins(launcher: Config) -> None:
    sources = set(launcher["file_mounts"].values()) - {"~/.ray/auth_token"}
    assert sources == {"pyproject.toml", "constraints.txt"} and all((ROOT / name).exists() for name in sources)
    installs = [line for line in launcher["setup_commands"] if "pip install" in line]
    assert len(installs) == 1 and "-c constraints.txt -r pyproject.toml" in installs[0]
    assert any(f"--python {PYTHON}" in line for line in launcher["setup_commands"])


@cache
def published() -> Config:
    return dict(json.loads(content(ROOT / "tests" / "data" / "kuberay" / "crds.json")))


def manifest(name: str) -> Config:
    return dict(yaml.safe_load(content(KUBERAY / f"{name}.yaml")))


def complaints(resource: Config) -> list[str]:
    """What KubeRay's published schema has against a manifest; fields that it does not name are among it."""
    schema = published()["kinds"][resource["kind"]] | {"$defs": published()["$defs"]}
    errors = jsonschema.Draft202012Validator(schema).iter_errors(resource)
    return [f"{error.json_path}: {error.message}" for error in errors]


def cluster_spec(resource: Config) -> Config:
    return dict(resource["spec"].get("rayClusterSpec", resource["spec"]))


def pods(spec: Config) -> list[Config]:
    return [group["template"]["spec"] for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"])]


@pytest.mark.parametrize("name", MANIFESTS)
def test_kuberay_accepts_the_manifest(name: str) -> None:
    held, copier = manifest(name), manifest("copy")
    assert complaints(held) == []
    # The pod to copy through is none of KubeRay's kinds, but may stand in one of them as any pod may.
    held["spec"].get("rayClusterSpec", held["spec"])["headGroupSpec"]["template"]["spec"] = copier["spec"]
    assert (copier["apiVersion"], copier["kind"]) == ("v1", "Pod") and complaints(held) == []


MISTAKES = """spec.idleTimeoutSeconds=600 spec.autoscalerOptions.idleTimeout=600 spec.authOptions.mode=tokens metadata.nam=beear
apiVersion=ray.io/v1alpha1 spec.headGroupSpec.template.spec.tolerantions=[] spec.workerGroupSpecs.0.maxReplicas="2"
spec.workerGroupSpecs.1.template.spec.containers.0.volumeMounts.0.path=/shared
spec.workerGroupSpecs.0.template.spec.tolerations.0.tolerationSeconds=soon
spec.headGroupSpec.template.spec.containers.0.resources.limits.memory=much"""


@pytest.mark.parametrize("mistake", MISTAKES.split())
def test_the_schema_would_catch_a_mistake(mistake: str) -> None:
    (path, text), broken = mistake.split("="), manifest("raycluster")
    *way, last = [int(step) if step.isdigit() else step for step in path.split(".")]
    place: Any = broken
    for step in way:
        place = place[step]
    place[last] = yaml.safe_load(text)
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


SECRETS = re.compile(
    r"AKIA[0-9A-Z]{16}|-----BEGIN|\bgh[pousr]_\w{20,}|\bhf_\w{20,}|\b[0-9a-f]{32,}\b"
    r"|(?i:password|passwd|api_?key|access_key|auth_token|credentials)['\"]?\s*[:=]\s*['\"]?[\w+/-]{8,}"
)


LEAKS = """RAY_AUTH_TOKEN=0123456789abcdef
aws_secret_access_key: "wJalrXUtnFEMIK7MDENGbPxRfiCYEXAMPLEKEY"
{name: MLFLOW_TRACKING_PASSWORD, value: x, password: correcthorse}
AKIAIOSFODNN7EXAMPLE
-----BEGIN OPENSSH PRIVATE KEY-----
4f2d6c1b8a9e7f3054f2d6c1b8a9e7f305"""


def test_nothing_shipped_looks_like_a_secret() -> None:
    shipped = [LAUNCHER, PAGE, ROOT / ".dockerignore", *(path for path in (ROOT / "deploy").rglob("*") if path.is_file())]
    assert len(shipped) >= 8
    assert {path.name: SECRETS.findall(content(path)) for path in shipped} == {path.name: [] for path in shipped}
    assert [line for line in LEAKS.splitlines() if not SECRETS.search(line)] == []


def blocks() -> dict[str, str]:
    """The indented blocks of the page below each heading, continued lines joined."""
    found: dict[str, str] = {}
    for section in re.split(r"^## ", content(PAGE), flags=re.MULTILINE)[1:]:
        title, _, body = section.partition("\n")
        found[title] = "\n".join(line[4:] for line in body.splitlines() if line.startswith("    "))
    return found


def pipeline_calls() -> list[str]:
    """Every command line of a pipeline in the page and the job's manifest."""
    entry = manifest("rayjob")["spec"]["entrypoint"]
    joined = [block.replace("\\\n", " ") for block in blocks().values()]
    return [entry, *(found for block in joined for found in re.findall(r"python pipelines/.*$", block, re.MULTILINE))]


def read(call: str) -> Any:
    """The configuration that a command line asks for, read as the pipeline itself reads it."""
    _, path, *words = shlex.split(call)
    (name,) = re.findall(r"= parse\((\w+),", content(ROOT / path))
    return parse(runpy.run_path(str(ROOT / path))[name], words)[0]


def test_every_command_is_one_that_the_pipelines_take() -> None:
    calls, smallest = pipeline_calls(), min(kind["resources"]["GPU"] for kind in kinds_with_gpus(variants()["aws"]).values())
    assert {re.findall(r"pipelines/(\w+)\.py", call)[0] for call in calls} == {"sanitize", "tune", "evaluate"}
    for call in calls:
        config = read(call)
        assert config.parallel.gpus_per_worker == 1 and config.parallel.workers <= smallest
        assert config.output.dir.startswith("/shared/out/")
    with pytest.raises(UserError, match="parallel.worker"):
        read(calls[0] + " --parallel.worker 8")


def test_the_page_names_options_that_exist() -> None:
    tune = read(next(call for call in pipeline_calls() if "tune.py" in call))
    named = set(re.findall(r"`--(\w+)\.(\w+)", content(PAGE)))
    assert ("search", "max_failures") in named
    assert {f"{section}.{field}" for section, field in named if not hasattr(getattr(tune, section, None), field)} == set()


def test_a_finished_job_is_ten_lines_away() -> None:
    # What follows the cluster's end in that section is another command.
    whole, _, _ = blocks()["From nothing to a finished job"].partition("ray down")
    lines = whole.splitlines()
    assert 0 < len(lines) <= 10
    steps = "get-auth-token … s/ami-REPLACE/ … ray up … rsync-up … ray job submit … rsync-down"
    assert "make setup" in lines[0] and in_order(whole, steps)
    # The one placeholder of the file for AWS; others stand in variants alone.
    assert set(re.findall(r"[\w-]+-REPLACE", VARIANT.sub("", content(LAUNCHER)))) == {"ami-REPLACE"}


def test_no_model_travels_with_a_jobs_code_and_no_result_stays_behind() -> None:
    ignored = content(ROOT / ".gitignore").splitlines()
    folders = re.findall(r"(?:rsync-up cluster\.yaml|kubectl cp) (\w+)/", content(PAGE))
    assert folders == ["mine", "mine"] and {"/mine/", "/models/"} <= set(ignored)
    # rsync-down heeds it as well.
    assert not any(name.startswith(("ml", "*")) for name in variants()["aws"]["rsync_exclude"])


def test_on_kubernetes_nothing_is_used_before_it_is_there() -> None:
    block, pod = blocks()["Kubernetes"], manifest("copy")["metadata"]["name"]
    before = f"storage.yaml -f deploy/kuberay/copy.yaml … Ready pod/{pod} … exec {pod} -- mkdir -p /shared/in"
    after = f"cp mine/. {pod}:/shared/in … create -f deploy/kuberay/rayjob.yaml … cp {pod}:/shared/out/mine … delete pod {pod}"
    assert in_order(block, f"{before} … {after}")
    assert in_order(block, "raycluster.yaml … --for=condition=HeadPodReady raycluster/beear … 8265 & sleep … ray job submit")
    (replaced,) = re.findall(r"sed -i .*registry\.example\.com\S+ (\S+)", block)
    assert set(WITH_IMAGE) <= set(ROOT.glob(replaced))


def test_machines_of_ones_own_share_caches_and_are_watched() -> None:
    block = blocks()["Your own machines"]
    starts = [line for line in block.splitlines() if "ray start" in line]
    told = "BEEAR_CACHE=/shared/cache/beear HF_HOME=/shared/cache/huggingface RAY_AUTH_MODE=token ray start"
    assert len(starts) == 2 and all(line.startswith(told) for line in starts)
    # The pinned Ray still reads the variable.
    first = "RAY_UP_enable_autoscaler_v2"
    assert f"{first}=0 ray up" in block and f"{first}=0 ray up" in content(LAUNCHER) and first in inspect.getsource(commands)
