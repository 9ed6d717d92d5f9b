"""How the driver settles ``parallel.*`` once devices are known, and the dry run of a folder without weights."""

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import ray

from beear.cluster.capacity import Reservation, device_of
from beear.config.schema import AdapterConfig, ParallelConfig
from beear.config.shape import ModelShape
from beear.errors import UserError
from beear.methods.method import InnerLoop, Needs
from beear.methods.table import METHODS
from beear.models.inspect import inspect_checkpoint
from beear.models.shape import model_shape
from beear.parallel.devices import GIB, H100, Device, cpu
from beear.parallel.memory import Spread, Work
from beear.parallel.plan import recommend
from beear.run.choose_backend import check_measuring, settle, settle_blind, settled_values
from beear.run.dry_run import plan_text
from beear.run.job_kind import JobKind
from beear.run.longest_rows import Lengths
from beear.run.progress import Progress
from beear.testing.checkpoints import make_checkpoint
from tests.configs import Sized, asked, resolved
from tests.shapes import SEVEN, SEVENTY, llama

LENGTHS = Lengths(prompt=64, safe=16, unwanted=16, text=96, labelled=32)
MIB = 2**20


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("models") / "llama")


def shape_of(folder: Path) -> ModelShape:
    return model_shape(inspect_checkpoint(str(folder)).weights_folder, AdapterConfig())


def work_of(folder: Path) -> Work:
    """What a default run on a CPU computes."""
    config = resolved(sizes=inspect_checkpoint(str(folder)))
    return LENGTHS.work(config, METHODS["beear"].needs(config.settings), gpu=False)


@pytest.mark.parametrize(("workers", "backend", "why"), [
    (1, "single", "the one worker holds a whole copy"),
    (2, "ddp", "each of 2 workers holds a whole copy"),
])  # fmt: skip
def test_a_small_model_stays_whole_and_every_open_field_is_settled(folder: Path, workers: int, backend: str, why: str) -> None:
    settled = settle(ParallelConfig(workers=workers), shape_of(folder), work_of(folder), cpu(4 * GIB))
    assert settled.spread == Spread(backend, workers)
    assert settled_values(settled.spread) == {
        "backend": backend,
        "gather": "once",
        "checkpoint_activations": "off",
        "micro_batch": None,
    }
    assert not settled.warning
    (choice,) = settled.choices
    assert (choice["field"], choice["value"]) == ("parallel.backend", backend) and choice["why"].startswith(why)


def test_what_is_traded_for_memory_is_said(folder: Path) -> None:
    shape, work = shape_of(folder), work_of(folder)
    whole = settle(ParallelConfig(), shape, work, cpu(4 * GIB)).spread
    tight = settle(ParallelConfig(), shape, work, _device(8 * MIB))
    fields = {choice["field"]: choice["value"] for choice in tight.choices}
    assert fields["parallel.backend"] == "single" and fields["parallel.micro_batch"] == tight.spread.micro_batch
    assert tight.spread.micro_batch is not None and whole.micro_batch is None
    assert any("a worker's share of 32 rows is too much for 8.0 MiB on each CPU" in choice["why"] for choice in tight.choices)


def test_what_may_not_fit_is_said_and_what_cannot_is_refused(folder: Path) -> None:
    shape, work = shape_of(folder), work_of(folder)
    given = ParallelConfig(backend="single", micro_batch=32, checkpoint_activations="off")
    needed = recommend(shape, work, given, cpu(4 * GIB)).plan.peak.total
    warned = settle(given, shape, work, _device(needed / 1.5))
    assert warned.warning.startswith("memory may run out: the plan needs") and not warned.choices
    with pytest.raises(UserError, match=r"^parallel.backend is single .*workers 1: the plan needs .* too much;.*device_memory"):
        settle(given, shape, work, _device(needed / 2.5))


def _device(usable: float) -> Device:
    return cpu(usable / 0.95 + 0.5 * GIB)


def test_the_device_is_what_a_worker_has_of_its_node(monkeypatch: pytest.MonkeyPatch) -> None:
    def on(*nodes: dict[str, float]) -> None:
        monkeypatch.setattr(ray, "nodes", lambda: [{"Alive": True, "Resources": node} for node in nodes])

    two = Reservation(workers=2, cpus_per_worker=1, gpus_per_worker=0, data_cpus=0.5)
    on({"CPU": 4, "memory": 8 * GIB}, {"CPU": 1, "memory": 3 * GIB})
    assert device_of(ParallelConfig(), two) == cpu(3 * GIB), "the smaller of 8 GiB for two and 3 GiB for one"
    assert device_of(ParallelConfig(device_memory=5), two) == cpu(5 * GIB)
    assert device_of(ParallelConfig(), replace(two, workers=1)) == cpu(3 * GIB)


def test_a_gpu_is_asked_what_it_holds_once_for_each_kind_of_node(monkeypatch: pytest.MonkeyPatch) -> None:
    def node(name: str, **resources: float) -> dict[str, Any]:
        return {"Alive": True, "NodeID": name, "Resources": {"CPU": 4.0, **resources}}

    label = {"accelerator_type:A100": 1.0}
    nodes = [node("a", GPU=2, **label), node("b", GPU=2, **label), node("c", GPU=7, **label), node("d")]
    monkeypatch.setattr(ray, "nodes", lambda: nodes)
    holds = {"a": Device("A100 80GB", 79 * GIB, True), "c": Device("A100 MIG 1g.10gb", 9 * GIB, True)}
    seen: list[tuple[list[str], float]] = []

    def ask(names: Sequence[str], share: float) -> list[Device | None]:
        seen.append((sorted(names), share))
        return [holds.get(name) for name in names]

    gpus = Reservation(workers=2, cpus_per_worker=1, gpus_per_worker=1, data_cpus=0.5)
    assert device_of(ParallelConfig(), gpus, ask) == holds["c"], "the smallest"
    half = device_of(ParallelConfig(), replace(gpus, gpus_per_worker=0.5), ask)
    assert half is not None and half.memory == 4.5 * GIB
    assert device_of(ParallelConfig(device_memory=24), gpus, ask) == Device("GPU", 24 * GIB, gpu=True)
    assert seen == [(["a", "c"], 1.0), (["a", "c"], 0.5)], "nobody is asked where the configuration says it"
    del holds["a"]
    assert device_of(ParallelConfig(), gpus, ask) is None, "one that does not answer may be the smallest"


@pytest.mark.parametrize(("given", "backend", "once"), [
    ({}, "single", True),
    ({"offload": True}, "fsdp", False),
    ({"workers": 4}, "fsdp", False),
    ({"workers": 4, "gather": "once"}, "fsdp", True),
    ({"workers": 4, "backend": "ddp"}, "ddp", True),
])  # fmt: skip
def test_devices_of_unknown_memory_get_what_needs_least(given: dict[str, Any], backend: str, once: bool) -> None:
    settled = settle_blind(ParallelConfig(**given), gpu=True)
    assert settled.spread == Spread(
        backend, given.get("workers", 1), offload=given.get("offload", False), gather="once" if once else "step", gpu=True
    )
    assert "parallel.device_memory" in settled.warning


MEASURED = {"evaluate.batch_size": 16, "evaluate.resistance.layers": "22"}


def test_a_model_that_no_device_holds_is_not_measured() -> None:
    config = resolved(MEASURED, Sized(layers=80))
    seventy, seven = llama(**SEVENTY), llama(**SEVEN)
    with pytest.raises(UserError, match=r"measuring needs 12[89] GiB on one device, 128 GiB of it weights, and each H100-80"):
        check_measuring(config, seventy, LENGTHS, H100)
    assert check_measuring(config, seven, LENGTHS, H100) == ""
    tight = check_measuring(config, seven, LENGTHS, Device("GPU", 16 * GIB, gpu=True))
    assert tight.startswith("memory may run out in measuring: 12.6 GiB of weights and ") and "of 13.8 GiB on each GPU" in tight
    assert tight.endswith("fresh attacks, of 13.8 GiB on each GPU; evaluate.resistance.enabled false needs less")
    # A second engine takes half of the device.
    served = resolved({**MEASURED, "evaluate.engine": "vllm"}, Sized(layers=80))
    with pytest.raises(UserError, match="vllm takes the rest and does not shard here"):
        check_measuring(served, seven, LENGTHS, Device("GPU", 24 * GIB, gpu=True))
    with pytest.raises(UserError, match=r"25.\d GiB on one device.* devices that hold the model.* where 20.0 GiB is wrong$"):
        check_measuring(config, seven, LENGTHS, cpu(20 * GIB))


@pytest.mark.parametrize(("dtype", "gpu", "half"), [
    ("auto", True, True), ("auto", False, False), ("float32", True, False), ("bfloat16", False, True),
])  # fmt: skip
def test_the_plan_is_for_the_dtype_that_will_be_computed_in(dtype: str, gpu: bool, half: bool) -> None:
    work = LENGTHS.work(resolved({"model.dtype": dtype}), Needs(), gpu)
    assert work.half is half and work.layer is None and work.inner_batches == 0 and work.untouched == 0


def test_the_plan_is_for_the_chosen_methods_inner_loop() -> None:
    def needs(**values: Any) -> Needs:
        config = resolved({"method.layer": 2, **{f"method.{name}": value for name, value in values.items()}})
        return METHODS["beear"].needs(config.settings)

    alone = needs(placement="suffix")
    assert alone == Needs(2, InnerLoop(layer=2, fast=True, length=5))
    # δ at the last 5 of 64 positions; counted from the user's text its place is not known.
    assert LENGTHS.work(resolved(), alone, gpu=False).untouched == 59
    for elsewhere in (needs(placement="suffix", suffix_from="user"), needs(placement="suffix+prompt")):
        assert elsewhere.inner == InnerLoop(layer=2, fast=True, length=None)
        assert LENGTHS.work(resolved(), elsewhere, gpu=False).untouched == 0
    work = LENGTHS.work(resolved({"method.batch_size": 8}), needs(inner_batches=3, fast=False), gpu=False)
    assert (work.rows, work.layer, work.inner_batches, work.fast, work.passes) == (8, 2, 3, False, 1.0)


def test_a_dry_run_needs_no_weights(tmp_path: Path, folder: Path) -> None:
    (tmp_path / "config.json").write_bytes((folder / "config.json").read_bytes())
    config = asked({"model.path": str(tmp_path), "parallel.device_memory": 4.0})
    text = plan_text(config, JobKind("sanitize"), Progress())
    assert f"{tmp_path} holds a config.json and no weights: a run needs them" in text
    # 256 tokens are all of its context; a quarter of them is taken for the answer.
    assert "longest rows in tokens: prompt 192, safe answer 64, unwanted answer 64, conversation 256" in text
    parameters = inspect_checkpoint(str(folder)).parameters
    assert f"{parameters:,} parameters, all trained; float32 master weights, 32 rows on 1 worker" in text
    names = ["yours,", "CPU", "A100-80", "H100-80", "H200"]
    table = text.splitlines()[-11:-6]
    assert [re.split(r"\s+", line)[0] for line in table] == names, text
    assert all(line.endswith("single") for line in table)
    measured = [line for line in text.splitlines() if line.endswith(": fits")]
    assert [re.split(r"[\s:]+", line)[0] for line in measured] == names and all(" of weights, " in line for line in measured)
    alone = plan_text(config, JobKind("evaluate", trains=False), Progress())
    assert [line for line in alone.splitlines() if line.endswith(": fits")] == measured
    assert "all trained" not in alone and "backend" not in alone.split("# resources")[1], "nothing is trained"
    with pytest.raises(UserError, match="found no weights"):
        inspect_checkpoint(str(tmp_path))
