"""What is settled between connecting and the first measurement, and who is told of it; the cluster is made up."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from beear.cluster import connection
from beear.config.cli import Flags
from beear.config.schema import RunConfig
from beear.errors import UserError
from beear.models.inspect import inspect_checkpoint
from beear.parallel.devices import GIB, Device, cpu
from beear.run import lifecycle
from beear.run.checks import check_engine
from beear.run.job_kind import JobKind
from beear.run.lifecycle import Running, run_job
from beear.run.longest_rows import Lengths
from beear.testing.checkpoints import make_checkpoint


@pytest.fixture
def begin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return what begins a job of one kind on one made-up device, up to its work."""
    facts = inspect_checkpoint(str(make_checkpoint(tmp_path / "model")))

    def begin(kind: Any, device: Device | None, gpus: float, **parallel: Any) -> Running:
        config = RunConfig()
        config.output.dir, config.tracking.uri = str(tmp_path / "out"), f"sqlite:///{tmp_path}/runs.db"
        config.method.layer, config.method.batch_size, config.evaluate.batch_size = 1, 8, 4
        config.evaluate.resistance.layers = "1"
        for name, value in parallel.items():
            setattr(config.parallel, name, value)
        job = SimpleNamespace(kind=kind, config=config, facts=facts, lengths=Lengths(64, 16, 16, 96, 32), choices=[])
        job.identity, job.fill_answers = "0123456789abcdef", lambda plan: None
        plan = connection.Plan(config.parallel.workers, 1, gpus, 0.5)
        monkeypatch.setattr(lifecycle, "prepare", lambda *_: job)
        monkeypatch.setattr(lifecycle.delivery, "check_tracking", lambda config: config.tracking.uri)
        quiet = (("connect", None), ("await_room", None), ("check_resources", None))
        for name, value in (*quiet, ("plan_for", plan), ("device_of", device)):
            monkeypatch.setattr(connection, name, lambda *_, value=value: value)
        seen: list[Running] = []
        assert run_job(config, Flags(), JobKind(kind), lambda running: seen.append(running) or 0) == 0
        return seen[0]

    return begin


def test_the_tracking_server_is_told_what_was_settled(begin: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[dict[str, Any]] = []
    start = classmethod(lambda _cls, *_, config, **__: told.append(config) or SimpleNamespace(finish=lambda _state: None))
    monkeypatch.setattr("beear.registry.run.Run.start", start)
    running = begin("sanitize", cpu(4 * GIB), 0, workers=2)
    running.tracker.start()
    assert told[0]["parallel"]["backend"] == "ddp" == running.job.config.parallel.backend
    assert [choice["field"] for choice in running.job.choices] == ["parallel.backend"]


def test_unknown_memory_still_leaves_nothing_open(begin: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert begin("sanitize", None, 1, offload=True).job.config.parallel.backend == "fsdp"
    assert "memory is not known" in capsys.readouterr().err
    assert begin("evaluate", None, 1).job.config.parallel.backend == "auto", "nothing is trained"


@pytest.mark.parametrize("kind", ["sanitize", "evaluate"])
def test_what_cannot_work_there_is_refused_before_anything_is_measured(begin: Any, kind: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="parallel.offload is true and workers have no GPU"):
        begin(kind, cpu(4 * GIB), 0, offload=True)
    # Its context alone takes all of this device.
    with pytest.raises(UserError, match="needs .* parallel.device_memory says what a device holds where 1.0 GiB is wrong"):
        begin(kind, Device("GPU", GIB, gpu=True), 1, backend="fsdp", workers=2)
    assert not list(tmp_path.glob(".out*")), "nothing is half-written"


def test_vllm_loads_no_adapter(tmp_path: Path) -> None:
    facts, config = inspect_checkpoint(str(make_checkpoint(tmp_path / "model"))), RunConfig()
    check_engine(config, replace(facts, base="elsewhere"))
    config.evaluate.engine = "vllm"
    check_engine(config, facts)
    with pytest.raises(UserError, match=r"^evaluate.engine is vllm and model.path .*model an adapter; expected a full model"):
        check_engine(config, replace(facts, base="elsewhere"))
