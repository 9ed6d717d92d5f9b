"""A training worker's order of work around checkpoints and faults, without Ray."""

import tempfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray
import torch
from ray.train import Checkpoint, CheckpointConsistencyMode

from beear.cluster import training_worker
from beear.cluster.checkpoint import read_history, read_state, write_state
from beear.cluster.out_of_memory import scoring_ran_out
from beear.cluster.tasks import guarded
from beear.engine.fit import EpochOutcome
from beear.engine.session import Training
from beear.errors import Fault, UserError
from beear.methods.base import MethodState
from beear.parallel.spread import Spread
from beear.records.report import EpochRecord
from beear.run.build_report import told_once
from tests.configs import resolved


@pytest.fixture
def told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was asked of Ray, in order; temporary folders lie in ``tmp_path``."""
    calls: list[str] = []

    def waited(mode: CheckpointConsistencyMode) -> None:
        assert mode == CheckpointConsistencyMode.COMMITTED
        calls.append("waited for uploads")

    def reported(metrics: dict[str, float], checkpoint: Checkpoint, **_: Any) -> None:
        folder = Path(checkpoint.path)
        assert read_state(folder) == {"epoch": 2, "last": 3, "method": {"inner_steps": 7.0}}
        assert [record.epoch for record in read_history(folder)] == [1, 2]
        calls.append(f"reported {metrics}")

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(ray, "get", lambda value: value)
    monkeypatch.setattr(ray.train, "get_all_reported_checkpoints", waited)
    monkeypatch.setattr(ray.train, "report", reported)
    return calls


def spec_of(calls: list[str]) -> Any:
    """Return a specification whose board notes what is posted."""
    post = SimpleNamespace(remote=lambda event: calls.append(f"posted {event['kind']}"))
    events = SimpleNamespace(post=post, failed=SimpleNamespace(remote=lambda: False))
    return SimpleNamespace(scratch="beear-run", events=events, training=training())


def training(spread: Spread | None = None) -> Training:
    """Return a training of which only the configuration and the spread are looked at."""
    nothing: Any = None
    return Training(resolved(), nothing, nothing, spread or Spread("single"), [], [], "no-refusal")


def worker_of(calls: list[str], save: Callable[[Path], None]) -> Any:
    """Return a worker after its first epoch whose backend saves as ``save`` does."""
    backend: Any = SimpleNamespace(rank=0, save=save)
    session: Any = SimpleNamespace(defense=SimpleNamespace(state=MethodState({"inner_steps": 7.0})))
    made = training_worker._Worker(spec_of(calls), backend, session)
    made.history = [EpochRecord(epoch=1)]
    return made


def test_the_upload_before_is_waited_for_before_the_next_checkpoint_takes_room(told: list[str], tmp_path: Path) -> None:
    def save(folder: Path) -> None:
        assert folder.is_relative_to(tmp_path / next(tmp_path.iterdir()))
        (folder / "share").write_text("")
        told.append("saved")

    worker_of(told, save)._after_epoch(EpochOutcome(epoch=2, last=3))
    assert told == ["waited for uploads", "saved", "reported {'epoch': 2}", "posted epoch"]
    assert [path.name.rpartition("-")[0] for path in tmp_path.iterdir()] == ["beear-run-0"]


def test_a_checkpoint_that_could_not_be_written_leaves_nothing(told: list[str], tmp_path: Path) -> None:
    def save(folder: Path) -> None:
        (folder / "share").write_text("half")
        raise OSError("No space left on device")

    with pytest.raises(OSError, match="No space left"):
        worker_of(told, save)._after_epoch(EpochOutcome(epoch=2, last=3))
    assert [*tmp_path.iterdir()] == [] and told == ["waited for uploads"]


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (FloatingPointError("not finite"), ["waited for uploads", "posted fault"]),
        (UserError("row 3"), ["waited for uploads", "posted fault"]),
        (torch.OutOfMemoryError("CUDA out of memory."), ["waited for uploads", "posted fault"]),
        (RuntimeError("a worker died"), []),
    ],
)
def test_a_fault_is_told_once_earlier_epochs_are_in_storage(
    error: Exception, expected: list[str], told: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: object) -> None:
        raise error

    (tmp_path / "beear-run-0-left").mkdir()
    monkeypatch.setattr(training_worker, "_train", fail)
    with pytest.raises(type(error)):
        training_worker.train_worker({"spec": spec_of(told)})
    assert told == expected and [*tmp_path.iterdir()] == []


def test_a_finished_run_is_seen_before_a_model_is_loaded(
    told: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built: list[object] = []

    def build(spec: object) -> None:
        built.append(spec)
        raise LookupError

    monkeypatch.setattr(training_worker, "_built", build)
    monkeypatch.setattr(ray.train, "get_checkpoint", lambda: Checkpoint.from_directory(tmp_path))
    write_state(tmp_path, 3, 3, {})
    training_worker.train_worker({"spec": spec_of(told)})
    assert built == [] and told == []
    write_state(tmp_path, 2, 3, {})
    with pytest.raises(LookupError):
        training_worker.train_worker({"spec": spec_of(told)})
    assert len(built) == 1


def test_memory_that_runs_out_is_one_sentence_with_what_is_left_to_try() -> None:
    error = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79.1 GiB.")
    assert training_worker.fault_of(error, training(Spread("fsdp", 2, checkpoint_activations=True))) == Fault(
        "user",
        "parallel: memory ran out in a training worker (tried to allocate 2.00 GiB), expected the training to fit; "
        "try a smaller --parallel.micro_batch or --parallel.gather=step or more --parallel.workers with --parallel.backend=fsdp "
        "or --adapter.kind=lora",
    )
    with pytest.raises(RuntimeError) as refused:
        torch.empty(10**16)
    assert scoring_ran_out(refused.value) == (
        "evaluate.batch_size: memory ran out while a model was measured (tried to allocate 40000000000000000 bytes), expected a "
        "batch that fits; try fewer rows"
    )
    assert scoring_ran_out(RuntimeError("size mismatch")) is None and scoring_ran_out(ValueError("out of memory")) is None


def test_what_a_resumed_run_finds_again_is_noted_once() -> None:
    sentence = "Entrapment with placement {} ran the plain loop: the fast one does not serve this model (a loss differs by {})."
    history = [
        EpochRecord(epoch=1, notes=[sentence.format("suffix", "1.1e-2"), sentence.format("everywhere", "2.0e-2")]),
        EpochRecord(epoch=2, notes=[sentence.format("suffix", "1.3e-2"), "Another."]),
    ]
    assert told_once(history) == [*history[0].notes, "Another."]


def test_a_task_that_runs_out_of_memory_ends_with_the_sentence_and_any_other_error_stays() -> None:
    def raises(error: Exception) -> None:
        raise error

    fault, value = guarded(raises, (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),))
    assert value is None and fault is not None
    assert fault.kind == "user" and "tried to allocate 2.00 GiB" in fault.sentence
    with pytest.raises(RuntimeError, match="size mismatch"):
        guarded(raises, (RuntimeError("size mismatch"),))
