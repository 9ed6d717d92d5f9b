"""cluster.yaml and its variants against Ray's own schema and checks, and what a node is set up with."""

import copy

import jsonschema
import pytest
from ray.autoscaler._private.aws import config as ray_aws
from ray.autoscaler._private.util import validate_config

from tests.checkout import ROOT
from tests.deploy_files import PAGE, PYTHON, Config, content, in_order, kinds_with_gpus, manifest, prepared, variants


@pytest.fixture(scope="module", params=["aws", "gcp", "local"])
def launcher(request: pytest.FixtureRequest) -> Config:
    return variants()[request.param]


def test_every_variant_is_tried() -> None:
    assert {name: config["provider"]["type"] for name, config in variants().items()} == {n: n for n in ("aws", "gcp", "local")}


def test_ray_accepts_the_file(launcher: Config) -> None:
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
