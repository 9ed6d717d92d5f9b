"""What is settled between connecting and the first measurement, and who is told of it; the cluster is made up."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray

from beear.cluster.capacity import Reservation
from beear.cluster.connection import RaySession
from beear.config.schema import ParallelConfig
from beear.errors import UserError
from beear.models.facts import ModelFacts
from beear.models.inspect import inspect_checkpoint
from beear.parallel.devices import GIB, Device, cpu
from beear.parallel.spread import Spread
from beear.run.delivery import Tracker
from beear.run.job_kind import JobKind
from beear.run.lifecycle import Begun, at_work
from beear.run.output_folder import OutputFolder
from beear.run.place import place, settled_on
from beear.run.prepare import prepare
from beear.run.progress import Progress
from beear.run.stages import Checked
from beear.testing.checkpoints import make_adapter, make_checkpoint
from tests.configs import asked
from tests.stages import checked_run, placed_run

SMALL = {"method.layer": 1, "method.batch_size": 8, "evaluate.batch_size": 4, "evaluate.resistance.layers": "1"}


@pytest.fixture(scope="module")
def facts(tmp_path_factory: pytest.TempPathFactory) -> ModelFacts:
    return inspect_checkpoint(str(make_checkpoint(tmp_path_factory.mktemp("model"))))


def run_of(facts: ModelFacts, folder: Path, kind: str = "sanitize", **parallel: Any) -> Checked:
    given = {f"parallel.{name}": value for name, value in parallel.items()}
    return checked_run(folder, {**SMALL, "data.max_length": 200, **given}, kind, facts)


def reserved(workers: int = 1, gpus: float = 0.0) -> Reservation:
    return Reservation(workers, 1.0, gpus, 0.5)


def test_what_is_settled_is_what_reports_and_trackers_show(
    facts: ModelFacts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checked, device = run_of(facts, tmp_path, workers=2), cpu(4 * GIB)
    settled = settled_on(checked, device, device, reserved(2), Progress())
    assert settled is not None and settled.spread == Spread("ddp", 2)
    assert [choice["field"] for choice in settled.choices] == ["parallel.backend"]
    placed = placed_run(checked, settled.spread)
    shown = placed.values["parallel"]
    assert (shown["backend"], shown["gather"], shown["checkpoint_activations"], shown["workers"]) == ("ddp", "once", "off", 2)
    assert checked.config.values["parallel"]["backend"] == "auto", "the stage before is as it was"
    told: list[dict[str, Any]] = []
    start = classmethod(lambda _cls, *_, config, **__: told.append(config) or SimpleNamespace(finish=lambda _state: None))
    monkeypatch.setattr("beear.registry.run.Run.start", start)
    Tracker("sqlite://", placed, tmp_path).start()
    assert told == [placed.values]


def test_unknown_memory_still_leaves_nothing_open(facts: ModelFacts, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settled = settled_on(run_of(facts, tmp_path, offload=True), None, None, reserved(gpus=1), Progress())
    assert settled is not None and settled.spread == Spread("fsdp", offload=True, gather="step", gpu=True)
    assert "memory is not known" in capsys.readouterr().err
    measured = run_of(facts, tmp_path, "evaluate", offload=True)
    assert settled_on(measured, None, None, reserved(gpus=1), Progress()) is None, "nothing is trained"


@pytest.mark.parametrize("kind", ["sanitize", "evaluate"])
def test_a_device_that_cannot_hold_it_is_refused_before_anything_is_measured(
    kind: str, facts: ModelFacts, tmp_path: Path
) -> None:
    # Its context alone takes all of this device.
    checked, device = run_of(facts, tmp_path, kind, backend="fsdp", workers=2), Device("GPU", GIB, gpu=True)
    with pytest.raises(UserError, match="needs .* parallel.device_memory says what a device holds where 1.0 GiB is wrong"):
        settled_on(checked, device, device, reserved(2, gpus=1), Progress())


@pytest.mark.parametrize("kind", ["sanitize", "evaluate"])
def test_what_the_clusters_devices_cannot_do_is_refused_there(
    kind: str, facts: ModelFacts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = {"CPU": 4.0, "memory": 8.0 * GIB}
    monkeypatch.setattr(ray, "cluster_resources", lambda: there)
    monkeypatch.setattr(ray, "nodes", lambda: [{"Alive": True, "Resources": there}])
    monkeypatch.setattr("beear.cluster.autoscaling.possible", lambda: there)
    placed = place(run_of(facts, tmp_path, kind), Progress())
    assert placed.reservation == reserved() and placed.spread == (None if kind == "evaluate" else Spread("single"))
    with pytest.raises(UserError, match="parallel.offload is true and workers have no GPU"):
        place(run_of(facts, tmp_path, kind, offload=True), Progress())


class Refusing(RaySession):
    """A session whose cluster does not answer."""

    def connect(self) -> None:
        raise UserError("parallel.address: nothing answers")


def test_a_run_that_the_cluster_refuses_leaves_nothing_half_written(facts: ModelFacts, tmp_path: Path) -> None:
    checked = run_of(facts, tmp_path)
    output = OutputFolder(tmp_path / "out", checked.identity)
    begun = Begun(checked, output, None, JobKind("sanitize"))
    with pytest.raises(UserError, match="nothing answers"), at_work(begun, Refusing(ParallelConfig()), Progress()):
        pytest.fail("no place, no work")
    assert not list(tmp_path.glob(".out*"))
    output.open(fresh=False).close()


def test_vllm_loads_no_adapter(tmp_path: Path) -> None:
    """Nothing else of the run is looked at before: its data is not there."""
    base = make_checkpoint(tmp_path / "base")
    adapter = make_adapter(tmp_path / "adapter", base)
    values = {"model.path": str(adapter), "model.base": str(base), "evaluate.engine": "vllm"}
    with pytest.raises(UserError, match=r"^evaluate.engine is vllm and model.path .*adapter an adapter; expected a full model"):
        prepare(asked(values), "evaluate", False, Progress(), pytest.fail)
    with pytest.raises(UserError, match=r"^data.defense.path is not set"):
        prepare(asked({"model.path": str(base), "evaluate.engine": "vllm"}), "evaluate", False, Progress(), pytest.fail)
