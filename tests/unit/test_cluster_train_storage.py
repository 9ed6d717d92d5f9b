"""What killed processes leave: temporary folders, uploads that were broken off, and Ray's list cut off in the middle."""

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed.checkpoint as dcp
from ray.train import CheckpointConfig
from ray.train.v2._internal.execution.checkpoint.checkpoint_manager import CheckpointManager
from ray.train.v2._internal.execution.storage import StorageContext
from safetensors.torch import save_file

from beear.cluster.checkpoint import EXPORT, WEIGHTS, epoch_if_complete, read_state, write_history, write_state
from beear.cluster.temp_dirs import clear_scratch, scratch, scratch_name
from beear.cluster.train_storage import last_saved_epoch, mend
from beear.parallel import training_state, zero_state
from beear.records.report import EpochRecord

SNAPSHOT = "checkpoint_manager_snapshot.json"


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The machine's temporary folder."""
    place = tmp_path / "temporary"
    place.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(place))
    yield place


def test_a_folder_goes_when_it_was_not_handed_over_and_stays_when_it_was(temporary: Path) -> None:
    name = scratch_name("a" * 64, Path("/out/train"))
    with pytest.raises(KeyboardInterrupt), scratch(name, 1) as folder:
        (folder / WEIGHTS).mkdir()
        assert folder.parent == temporary and folder.name.startswith(f"{name}-1-")
        raise KeyboardInterrupt
    assert not folder.exists()
    with scratch(name, 0) as folder:
        (folder / "file").write_text("")
    assert folder.exists()
    with scratch(scratch_name("a" * 64, Path("/other/train")), 0) as others:
        pass
    clear_scratch(name)
    assert [*temporary.iterdir()] == [others]


def stored(folder: Path, name: str, epoch: int, last: int = 3, zero: bool = False) -> Path:
    """Write a whole checkpoint as workers do."""
    made = folder / name
    (made / WEIGHTS).mkdir(parents=True)
    if zero:
        save_file({"weight": torch.ones(300)}, made / WEIGHTS / "zero-00000.safetensors")
        (made / WEIGHTS / "zero.json").write_text(json.dumps({"steps": 1, "weights": ["w"]}))
    else:
        dcp.save({"w": torch.ones(300)}, checkpoint_id=made / WEIGHTS, no_dist=True)
    write_state(made, epoch, last, {"inner_steps": 7.0})
    write_history(made, [EpochRecord(epoch=n) for n in range(1, epoch + 1)])
    if epoch == last:
        (made / EXPORT).mkdir()
        (made / EXPORT / "config.json").write_text("{}")
    return made


@pytest.mark.parametrize("zero", [False, True])
def test_a_checkpoint_is_complete_until_a_part_is_cut_or_gone(zero: bool, tmp_path: Path) -> None:
    made, complete = stored(tmp_path, "checkpoint_1", 3, zero=zero), (zero_state if zero else training_state).complete
    assert epoch_if_complete(made) == 3 and read_state(made) == {"epoch": 3, "last": 3, "method": {"inner_steps": 7.0}}
    (made / EXPORT / "config.json").unlink()
    assert complete(made / WEIGHTS) and epoch_if_complete(made) is None
    for name in [path.name for path in (made / WEIGHTS).iterdir()]:
        path = made / WEIGHTS / name
        whole = path.read_bytes()
        path.write_bytes(whole[: len(whole) // 2])
        assert not complete(made / WEIGHTS), f"{name} is cut"
        path.unlink()
        assert not complete(made / WEIGHTS), f"{name} is gone"
        path.write_bytes(whole)
    assert complete(made / WEIGHTS)
    other = stored(tmp_path, "checkpoint_2", 2)
    (other / "history.json").write_text("[")
    assert epoch_if_complete(other) is None


def manager(folder: Path) -> CheckpointManager:
    """Return Ray's own reader of the list."""
    storage = StorageContext(storage_path=str(folder.parent), experiment_dir_name=folder.name)
    return CheckpointManager(CheckpointConfig(num_to_keep=2), storage)


def latest(folder: Path) -> str | None:
    result = manager(folder).latest_checkpoint_result
    return Path(result.checkpoint.path).name if result is not None else None


def kept(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("checkpoint_*") if path.is_dir())


@pytest.mark.parametrize("text", ["", '{"ray_version": "2.60', '{"ray_version": "2.60.0"}'])
def test_a_list_that_is_cut_off_is_made_anew_with_the_last_whole_checkpoint(text: str, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    stored(folder, "checkpoint_2026-01-01_00-00-01.000001", 1)
    stored(folder, "checkpoint_2026-01-01_00-00-02.000001", 2)
    (stored(folder, "checkpoint_2026-01-01_00-00-03.000001", 2) / WEIGHTS / ".metadata").unlink()
    (folder / SNAPSHOT).write_text(text)
    said = mend(folder)
    assert said == "Ray's list of checkpoints was broken; training goes on after epoch 2, the last saved"
    assert kept(folder) == ["checkpoint_2026-01-01_00-00-02.000001"] == [latest(folder)]
    assert manager(folder)._current_report_index == 1
    assert last_saved_epoch(folder) == 2
    assert mend(folder) is None and kept(folder) == [latest(folder)]


def test_a_list_that_names_a_checkpoint_which_is_gone_is_made_anew(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    stored(folder, "checkpoint_1", 1)
    (folder / SNAPSHOT).write_text("")
    mend(folder)
    (folder / SNAPSHOT).write_text((folder / SNAPSHOT).read_text().replace("checkpoint_1", "checkpoint_2"))
    said = mend(folder)
    assert said == "Ray's list of checkpoints was broken; training goes on after epoch 1, the last saved"
    assert kept(folder) == ["checkpoint_1"] == [latest(folder)]


def test_with_no_whole_checkpoint_training_starts_over(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    (folder / "checkpoint_1" / WEIGHTS).mkdir(parents=True)
    (folder / SNAPSHOT).write_text("{")
    said = mend(folder)
    assert said is not None and said.endswith("no checkpoint is whole; training starts over")
    assert kept(folder) == [] and latest(folder) is None
    assert last_saved_epoch(folder) == 0


def test_uploads_that_were_broken_off_are_removed_and_listed_ones_stay(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    assert mend(folder) is None
    for name in ("checkpoint_1", "checkpoint_2"):
        stored(folder, name, 1)
        (folder / SNAPSHOT).write_text("")
        mend(folder)
        assert kept(folder) == [name]
    stored(folder, "checkpoint_3", 2)
    (folder / "checkpoint_4").mkdir()
    assert mend(folder) is None and kept(folder) == ["checkpoint_2"] == [latest(folder)]
    (folder / SNAPSHOT).unlink()
    assert mend(folder) is None and kept(folder) == []
