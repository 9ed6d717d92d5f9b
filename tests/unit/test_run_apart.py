"""The output folder is never where a run reads."""

from collections.abc import Callable
from pathlib import Path

import pytest

from beear.errors import UserError
from beear.run.apart import check_apart
from tests.frozen import commands

COMMANDS = {"sanitize": "model.path", "evaluate": "model.path", "tune": "model.path", "implant": "model"}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "made" / "model"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (tmp_path / "link").symlink_to(folder)
    (tmp_path / "d.jsonl").write_text("{}\n")
    (tmp_path / "to-d").symlink_to(tmp_path / "d.jsonl")
    return folder


PLACES: dict[str, tuple[Callable[[Path], Path], str]] = {
    "the same": (lambda root: root / "made/model", "it is the folder of"),
    "the same, through a link": (lambda root: root / "link", "it is the folder of"),
    "the same, by a detour": (lambda root: root / "made/../made/model/", "it is the folder of"),
    "in it": (lambda root: root / "made/model/out", "it lies in the folder of"),
    "deep in it, through a link": (lambda root: root / "link/a/b", "it lies in the folder of"),
    "above it": (lambda root: root / "made", "it holds the folder of"),
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("dry", [("--dry-run",), ()], ids=["dry", "run"])
def test_every_command_refuses_a_folder_that_it_reads(
    tmp_path: Path, model: Path, command: str, place: str, dry: tuple[str, ...]
) -> None:
    at, said = PLACES[place]
    before = sorted(tmp_path.rglob("*"))
    field = COMMANDS[command]
    done = commands.call_here(command, (f"--{field}", str(model), "--output.dir", str(at(tmp_path)), *dry))
    (error,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert done.returncode == 2 and f"{said} {field} ({model})" in error
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("field", ["model.base", "model.reference"])
def test_the_other_folders_that_a_run_reads_count_too(tmp_path: Path, model: Path, field: str) -> None:
    words = (f"--{field}", str(tmp_path / "link"), "--output.dir", str(model / "out"), "--dry-run")
    done = commands.call_here("sanitize", words)
    assert done.returncode == 2 and f"it lies in the folder of {field} ({tmp_path / 'link'})" in done.stderr


def test_paths_are_taken_from_the_working_folder(tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"it lies in the folder of model.path \(made/model\)"):
        check_apart(Path("link/out"), {"model.path": "made/model"}, {})
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(UserError, match="it is the folder of model.path"):
        check_apart(model, {"model.path": "~/made/model"}, {})


@pytest.mark.parametrize("given", ["d.jsonl", "to-d", "*.jsonl"])
def test_data_files_are_no_output_folder(tmp_path: Path, model: Path, given: str) -> None:
    for out, said in ((tmp_path / "d.jsonl", "it is a file of"), (tmp_path, "it holds a file of")):
        with pytest.raises(UserError, match=f"{said} data.defense.path"):
            check_apart(out, {}, {"data.defense.path": str(tmp_path / given)})


def test_a_run_whose_output_folder_is_its_data_is_refused(tmp_path: Path, model: Path) -> None:
    for command, field in (("sanitize", "data.probes.path"), ("implant", "data.defense")):
        more = ("--data.anchor", "a.jsonl") if command == "implant" else ()
        words = (f"--{field}", str(tmp_path / "d.jsonl"), "--output.dir", str(tmp_path / "to-d"), "--dry-run", *more)
        done = commands.call_here(command, words)
        assert done.returncode == 2 and f"it is a file of {field}" in done.stderr


def test_folders_beside_each_other_and_addresses_are_fine(tmp_path: Path, model: Path) -> None:
    files = {"data.defense.path": str(tmp_path / "d.jsonl"), "data.anchor.path": "s3://bucket/x", "model.chat_template": "llama2"}
    folders = {"model.path": str(model), "model.base": "hub:a/b", "model.reference": None}
    for out in ("made/model-out", "made/out/model", "out"):
        check_apart(tmp_path / out, folders, files)


def test_the_name_of_a_template_is_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "llama2").mkdir()
    check_apart(tmp_path / "llama2", {}, {"model.chat_template": "llama2"})


def test_an_address_is_no_path(tmp_path: Path) -> None:
    folders = {"model.base": "hub:a/b"}
    check_apart(tmp_path / "hub:a", folders, {})
