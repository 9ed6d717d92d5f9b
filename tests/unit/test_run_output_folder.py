"""The output folder: whose it is, that nothing of anybody's is lost, and when a half-done run goes on."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from beear.errors import UserError
from beear.run.output_folder import OutputFolder, check_output, place_of
from tests.checkout import ROOT


def begun(target: Path, identity: str = "a" * 64) -> OutputFolder:
    """A run that has written its report into its staging folder."""
    output = OutputFolder(target, identity)
    output.open(False).close()
    (output.staging / "report.json").write_text(json.dumps({"run_id": identity}))
    return output


def test_a_finished_run_is_found_again_and_another_is_refused(tmp_path: Path) -> None:
    output = begun(tmp_path / "out")
    assert output.state() == "resumable"
    output.finish(("report.json",))
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert (output.state(), output.state(fresh=True)) == ("complete", "new")
    with pytest.raises(UserError, match="it holds run aaaaaaaaaaaa"):
        OutputFolder(tmp_path / "out", "b" * 64).state()


@pytest.mark.parametrize("text", ["[]", "7", "{", '{"other": 1}'])
def test_a_report_that_is_none_is_somebody_elses_file(text: str, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "report.json").write_text(text)
    with pytest.raises(UserError, match="files that are no run's"):
        OutputFolder(tmp_path / "out", "a" * 64).state()


def test_two_runs_into_one_folder_are_not_let_in_together(tmp_path: Path) -> None:
    lock = OutputFolder(tmp_path / "out", "a" * 64).open(fresh=False)
    with pytest.raises(UserError, match="another run is working on it"):
        OutputFolder(tmp_path / "out", "b" * 64).open(fresh=False)
    lock.close()
    OutputFolder(tmp_path / "out", "b" * 64).open(fresh=False).close()
    assert not list(tmp_path.glob("*.lock")) and not list(tmp_path.glob(".*.lock"))


def test_a_lock_dies_with_its_process(tmp_path: Path) -> None:
    code = f"""
import os, pathlib
from beear.run.output_folder import OutputFolder
lock = OutputFolder(pathlib.Path({str(tmp_path / "out")!r}), "a" * 64).open(fresh=False)
os.kill(os.getpid(), 9)
"""
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == -9
    assert (tmp_path / ".out.lock").exists()
    OutputFolder(tmp_path / "out", "b" * 64).open(fresh=False).close()


def test_what_was_put_there_meanwhile_is_kept_and_so_are_the_results(tmp_path: Path) -> None:
    output = begun(tmp_path / "out")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="something was put there during the run"):
        output.finish(("report.json",))
    output.drop_if_untrained()
    assert (tmp_path / "out" / "notes.txt").read_text() == "mine" and (output.staging / "report.json").exists()


def test_an_interrupted_fresh_run_goes_on_and_an_older_one_is_wiped(tmp_path: Path) -> None:
    output = begun(tmp_path / "out")
    output.open(fresh=True).close()
    assert not (output.staging / "report.json").exists()
    (output.staging / "before.json").write_text("measured")
    output.open(fresh=True).close()
    assert (output.staging / "before.json").exists()


@pytest.mark.parametrize("saved", [False, True])
def test_a_run_that_failed_leaves_something_only_where_an_epoch_was_saved(saved: bool, tmp_path: Path) -> None:
    output = OutputFolder(tmp_path / "out", "a" * 64)
    output.open(fresh=False).close()
    (output.staging / "train" / "run" / ("checkpoint_1" if saved else "worker_logs")).mkdir(parents=True)
    output.drop_if_untrained()
    assert output.staging.exists() == saved


def test_a_failed_search_keeps_the_trials_that_it_has(tmp_path: Path) -> None:
    output = OutputFolder(tmp_path / "out", "a" * 64, worth=("checkpoint_*", "trials.json"))
    output.open(fresh=False).close()
    (output.staging / "trials.json").write_text("[]")
    output.drop_if_untrained()
    assert output.staging.exists()
    output.drop()
    assert not output.staging.exists()


def test_a_submitted_jobs_results_outlive_its_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/me")
    assert place_of("outputs/run") == tmp_path / "outputs" / "run"
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    assert place_of("outputs/run") == Path("/home/me/outputs/run")
    assert place_of("/shared/run") == Path("/shared/run")


def test_a_mount_point_cannot_be_moved() -> None:
    with pytest.raises(UserError, match="it is a mount point"):
        check_output(Path("/proc"))


def test_looking_leaves_nothing_behind(tmp_path: Path) -> None:
    check_output(tmp_path / "outputs" / "family" / "run")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["a" * 240, "a" * 300, "a" * 300 + "/run"])
def test_a_name_that_no_folder_can_have_is_refused_before_anything_runs(name: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot write there"):
        check_output(tmp_path / name)
    assert list(tmp_path.iterdir()) == []
