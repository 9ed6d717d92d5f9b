"""docs/cluster.md: its commands are the pipelines' own, in an order that works; and no secret stands in what is shipped."""

import inspect
import re
import runpy
import shlex
from typing import Any

import pytest
from ray.autoscaler._private import commands

from beear.config.cli import parse
from beear.errors import UserError
from tests.checkout import ROOT
from tests.deploy_files import LAUNCHER, PAGE, VARIANT, WITH_IMAGE, content, in_order, kinds_with_gpus, manifest, variants

SECRETS = re.compile(
    r"AKIA[0-9A-Z]{16}|-----BEGIN|\bgh[pousr]_\w{20,}|\bhf_\w{20,}|\b[0-9a-f]{32,}\b"
    r"|(?i:password|passwd|api_?key|access_key|auth_token|credentials)['\"]?\s*[:=]\s*['\"]?[\w+/-]{8,}"
)


def test_nothing_shipped_looks_like_a_secret() -> None:
    shipped = [LAUNCHER, PAGE, ROOT / ".dockerignore", *(path for path in (ROOT / "deploy").rglob("*") if path.is_file())]
    assert len(shipped) >= 8
    assert {path.name: SECRETS.findall(content(path)) for path in shipped} == {path.name: [] for path in shipped}


@pytest.mark.parametrize(
    "line",
    [
        "RAY_AUTH_TOKEN=0123456789abcdef",
        'aws_secret_access_key: "wJalrXUtnFEMIK7MDENGbPxRfiCYEXAMPLEKEY"',
        "- {name: MLFLOW_TRACKING_PASSWORD, value: x}\n  password: correcthorse",
        "AKIAIOSFODNN7EXAMPLE",
        "-----BEGIN OPENSSH PRIVATE KEY-----",
        "4f2d6c1b8a9e7f3054f2d6c1b8a9e7f305",
    ],
)
def test_a_secret_would_be_seen(line: str) -> None:
    assert SECRETS.search(line)


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
    (name,) = re.findall(r"= parse\((\w+)\(\),", content(ROOT / path))
    return parse(runpy.run_path(str(ROOT / path))[name](), words)[0]


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
