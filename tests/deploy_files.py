"""cluster.yaml and deploy/ as data, for the tests that hold them against what others publish of them."""

import copy
import re
from pathlib import Path
from typing import Any

import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

from tests.checkout import ROOT

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


def manifest(name: str) -> Config:
    return dict(yaml.safe_load(content(KUBERAY / f"{name}.yaml")))


def cluster_spec(resource: Config) -> Config:
    return dict(resource["spec"].get("rayClusterSpec", resource["spec"]))


def pods(spec: Config) -> list[Config]:
    return [group["template"]["spec"] for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"])]
