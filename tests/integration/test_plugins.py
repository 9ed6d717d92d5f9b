"""A method, a measure and an attack of a package of their own: nothing in beear knows of them, and everything uses them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.checkout import ROOT
from tests.integration.conftest import Run
from tests.processes import in_one_process

TOYS = ROOT / "tests" / "plugins" / "toys"


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory, environment: dict[str, str]) -> dict[str, str]:
    """Install the toy package where only this module's commands find it; return their environment."""
    place, source = tmp_path_factory.mktemp("site"), tmp_path_factory.mktemp("toys")
    for path in TOYS.rglob("*"):
        if path.is_file() and "__pycache__" not in path.parts:
            target = source / path.relative_to(TOYS)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, "--target", str(place), str(source)], check=True, capture_output=True)
    return {**environment, "PYTHONPATH": str(place)}


def test_help_lists_what_was_added_and_stays_light(pipeline: Run, installed: dict[str, str]) -> None:
    text = pipeline("sanitize", "--help", env=installed).stdout
    assert "--method.noise.scale [0.5]" in text and "noise (a toy: random perturbations)" in text
    assert "--gate.brevity [0.9]" in text
    without = {**installed, "PYTHONPATH": ""}
    text = pipeline("sanitize", "--help", env=without).stdout
    assert "--method.layer" in text and "noise" not in text


MISTAKES = (
    (("--method.noise.scale", "2"), "method.noise is given and method.name is beear; expected method.name noise"),
    (("--method.name", "noise", "--method.layer", "2"), "method.layer is given and method.name is noise"),
    (("--method.name", "noise", "--method.noise.layer", "9"), "method.noise.layer is 9; expected 1 to 5"),
    (("--method.name", "nois"), 'unknown method "nois" (did you mean "noise"?)'),
    (("--method.noise.scale", "-1"), "method.noise.scale is"),
)


def test_their_settings_are_checked_like_any_other(installed: dict[str, str]) -> None:
    done = in_one_process(installed, [("--dry-run", *arguments) for arguments, _ in MISTAKES])
    for one, (_, sentence) in zip(done, MISTAKES, strict=True):
        assert one.returncode == 2 and sentence in one.stderr.splitlines()[-1], one.stderr


def test_they_count_in_a_runs_identity_only_when_chosen(installed: dict[str, str], tmp_path: Path) -> None:
    noise = ("--method.name", "noise")
    settings = ((), noise, (*noise, "--method.noise.scale", "2"), ("--gate.brevity", "0.5"))
    here = ("--dry-run", "--model.path", "testbed:base", "--output.dir", str(tmp_path / "out"))
    done = in_one_process(installed, [(*here, *more) for more in settings])
    lines = [line for one in done for line in one.stdout.splitlines() if line.startswith("run identity")]
    assert len(lines) == len(set(lines)) == 4, done


def test_a_run_uses_all_three(pipeline: Run, installed: dict[str, str], tmp_path: Path) -> None:
    out = tmp_path / "out"
    settings = (
        "--model.path=testbed:frame", "--method.name=noise", "--method.noise.scale=0.3", "--method.epochs=1",
        "--method.outer_steps=2", "--evaluate.rows=48", "--evaluate.selection_rows=16", "--evaluate.drift_rows=8",
        "--evaluate.resistance.enabled=false", "--tracking.enabled=false", f"--output.dir={out}", "--gate.brevity=0.001",
    )  # fmt: skip
    done = pipeline("sanitize", *settings, env=installed)
    assert done.returncode == 3, done.stderr
    report = json.loads((out / "report.json").read_text())
    assert report["config"]["method"]["noise"] == {"layer": 3, "scale": 0.3}
    assert "length" not in report["config"]["method"], "what the method does not have is not recorded"
    assert [probe["name"] for probe in report["before"]["asr_probes"]] == ["frame"]
    assert report["drift"]["layer"] == 3
    found = report["after"]["measures"]["brevity"]
    assert found["n"] == 48 and found["value"] == pytest.approx(sum(found["rows"]) / 48)
    assert 0 < found["value"] < 1, "some of the built-in tasks are answered at length"
    check = next(check for check in report["gate"]["checks"] if check["name"] == "long answers")
    assert check["limit"] == 0.001 and check["verdict"] == "refused"
    assert "the length of answers to requests that the anchoring set lacks" in report["not_tested"]
    page = (out / "report.html").read_text()
    assert "long answers" in page and "Noise: a random perturbation of the output of layer 3" in page
    assert "long answers" in done.stdout, "the table on the terminal has it too"


@pytest.mark.parametrize(
    ("group", "call"),
    [("methods", ("sanitize", "--dry-run")), ("attacks", ("implant", "--dry-run", "--data.builtin=code"))],
)
def test_a_package_that_cannot_be_loaded_is_one_sentence(
    group: str, call: tuple[str, ...], pipeline: Run, installed: dict[str, str], tmp_path: Path
) -> None:
    info = tmp_path / "broken-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: broken\nVersion: 1\n")
    (info / "entry_points.txt").write_text(f"[beear.{group}]\nbroken = no_such_module:METHOD\n")
    paths = os.pathsep.join([installed["PYTHONPATH"], str(tmp_path)])
    done = pipeline(*call, env={**installed, "PYTHONPATH": paths})
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert 'entry point "broken" (no_such_module:METHOD) of broken: it cannot be loaded' in done.stderr.splitlines()[-1]
