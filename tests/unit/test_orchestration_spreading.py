"""How the driver settles ``parallel.*`` once devices are known, and the dry run of a folder without weights."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import ray

from beear.config.resolve import resolve
from beear.config.schema import ParallelConfig, RunConfig
from beear.errors import UserError
from beear.models.inspect import inspect_checkpoint
from beear.orchestration.cluster import Plan, device_of
from beear.orchestration.console import Reporter
from beear.orchestration.dry_run import plan_text
from beear.orchestration.lengths import Lengths
from beear.orchestration.spreading import settle
from beear.parallel.devices import BY_LABEL, GIB, Device, cpu
from tests.checkpoints import make_checkpoint

LENGTHS = Lengths(prompt=64, safe=16, unwanted=16, text=96, labelled=32)
MIB = 2**20


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("models") / "llama")


def job_of(folder: Path, **parallel: Any) -> tuple[RunConfig, Any]:
    facts = inspect_checkpoint(str(folder))
    config = RunConfig()
    config.parallel = ParallelConfig(**parallel)
    return resolve(config, facts)[0], facts


@pytest.mark.parametrize(("workers", "backend", "why"), [
    (1, "single", "the one worker holds a whole copy"),
    (2, "ddp", "each of 2 workers holds a whole copy"),
])  # fmt: skip
def test_a_small_model_stays_whole_and_every_open_field_is_settled(folder: Path, workers: int, backend: str, why: str) -> None:
    config, facts = job_of(folder, workers=workers)
    settled = settle(config, facts, LENGTHS, cpu(4 * GIB))
    parallel = settled.config.parallel
    assert (parallel.backend, parallel.gather, parallel.checkpoint_activations) == (backend, "once", "off")
    assert parallel.micro_batch is None and not settled.warning
    (choice,) = settled.choices
    assert (choice["field"], choice["value"]) == ("parallel.backend", backend) and choice["why"].startswith(why)
    assert config.parallel.backend == "auto", "what was given is left as it is"


def test_what_is_traded_for_memory_is_said(folder: Path) -> None:
    config, facts = job_of(folder)
    whole = settle(config, facts, LENGTHS, cpu(4 * GIB)).config
    peak = 8 * MIB
    tight = settle(config, facts, LENGTHS, replace(cpu(0), memory=(peak / 0.95) + 0.5 * GIB))
    fields = {choice["field"]: choice["value"] for choice in tight.choices}
    assert fields["parallel.backend"] == "single" and fields["parallel.micro_batch"] == tight.config.parallel.micro_batch
    assert tight.config.parallel.micro_batch is not None and whole.parallel.micro_batch is None
    assert any("a worker's share of 32 rows is too much for 8.0 MiB on each CPU" in choice["why"] for choice in tight.choices)


def test_what_may_not_fit_is_said_and_what_cannot_is_refused(folder: Path) -> None:
    config, facts = job_of(folder, backend="single", micro_batch=32, checkpoint_activations="off")
    needed = _needed(config, facts)
    warned = settle(config, facts, LENGTHS, _device(needed / 1.5))
    assert warned.warning.startswith("memory may run out: the plan needs") and not warned.choices
    with pytest.raises(UserError, match=r"^parallel.backend is single and parallel.workers 1: the plan needs .* too much;"):
        settle(config, facts, LENGTHS, _device(needed / 2.5))


def _needed(config: RunConfig, facts: Any) -> float:
    from beear.models.shape import model_shape
    from beear.parallel.plan import recommend

    shape = model_shape(facts.weights_folder, config.adapter)
    return recommend(shape, LENGTHS.work(config, gpu=False), config.parallel, cpu(4 * GIB)).plan.peak.total


def _device(usable: float) -> Device:
    return cpu(usable / 0.95 + 0.5 * GIB)


def test_the_device_is_what_a_worker_has_of_its_node(monkeypatch: pytest.MonkeyPatch) -> None:
    def on(*nodes: dict[str, float]) -> None:
        monkeypatch.setattr(ray, "nodes", lambda: [{"Alive": True, "Resources": node} for node in nodes])

    two = Plan(workers=2, cpus_per_worker=1, gpus_per_worker=0, data_cpus=0.5)
    on({"CPU": 4, "memory": 8 * GIB}, {"CPU": 1, "memory": 3 * GIB})
    assert device_of(ParallelConfig(), two) == cpu(3 * GIB), "the smaller of 8 GiB for two and 3 GiB for one"
    assert device_of(ParallelConfig(device_memory=5), two) == cpu(5 * GIB)
    gpus = replace(two, gpus_per_worker=1)
    on({"CPU": 4, "GPU": 2, "accelerator_type:H100": 1}, {"CPU": 4, "GPU": 2, "accelerator_type:H200": 1})
    assert device_of(ParallelConfig(), gpus) == BY_LABEL["H100"]
    half = device_of(ParallelConfig(), replace(gpus, gpus_per_worker=0.5))
    assert half is not None and half.memory == BY_LABEL["H100"].memory / 2
    on({"CPU": 4, "GPU": 2, "accelerator_type:UNHEARD-OF": 1})
    assert device_of(ParallelConfig(), gpus) is None
    assert device_of(ParallelConfig(device_memory=24), gpus) == Device("UNHEARD-OF", 24 * GIB, gpu=True)


@pytest.mark.parametrize(("dtype", "gpu", "half"), [
    ("auto", True, True), ("auto", False, False), ("float32", True, False), ("bfloat16", False, True),
])  # fmt: skip
def test_the_plan_is_for_the_dtype_that_will_be_computed_in(folder: Path, dtype: str, gpu: bool, half: bool) -> None:
    config, _ = job_of(folder)
    config.model.dtype = dtype  # type: ignore[assignment]
    config.method.placement = "suffix"
    work = LENGTHS.work(config, gpu)
    assert work.half is half
    # δ at the last 5 of 64 positions; counted from the user's text its place is not known.
    assert work.untouched == 59
    config.method.suffix_from = "user"
    assert LENGTHS.work(config, gpu).untouched == 0


def test_a_dry_run_needs_no_weights(tmp_path: Path, folder: Path) -> None:
    (tmp_path / "config.json").write_bytes((folder / "config.json").read_bytes())
    config = RunConfig()
    config.model.path, config.parallel.device_memory = str(tmp_path), 4.0
    text = plan_text(config, "sanitize", Reporter())
    assert f"{tmp_path} holds a config.json and no weights: a run needs them" in text
    # 256 tokens are all of its context; a quarter of them is taken for the answer.
    assert "longest rows in tokens: prompt 192, safe answer 64, unwanted answer 64, conversation 256" in text
    parameters = inspect_checkpoint(str(folder)).parameters
    assert f"{parameters:,} parameters, all trained; float32 master weights, 32 rows on 1 worker" in text
    table = text.splitlines()[-9:-5]
    assert [re.split(r"\s+", line)[0] for line in table] == ["CPU", "A100-80", "H100-80", "H200"], text
    assert all(line.endswith("single") for line in table)
    with pytest.raises(UserError, match="found no weights"):
        inspect_checkpoint(str(tmp_path))
