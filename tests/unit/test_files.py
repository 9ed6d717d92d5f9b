"""A file is written whole or not at all."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from beear.errors import UserError
from beear.files import share, write_text
from beear.models.convert.write import Options, convert
from beear.models.export import export_model
from beear.models.inspect import inspect_checkpoint
from beear.models.loading import load_model
from beear.testing.checkpoints import make_checkpoint
from tests.checkout import sources


@contextmanager
def umask(mask: int) -> Iterator[None]:
    """Set the process's umask for a while."""
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


def modes(folder: Path) -> dict[str, int]:
    """Return the mode of every file below a folder, and of the folder as ``.``."""
    return {str(path.relative_to(folder)): path.stat().st_mode & 0o777 for path in (folder, *folder.rglob("*"))}


@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o002, 0o664), (0o077, 0o600)])
def test_what_is_written_is_there_for_whom_the_umask_says(tmp_path: Path, mask: int, mode: int) -> None:
    path = tmp_path / "new" / "a.txt"
    with umask(mask):
        write_text(path, "δ one")
        write_text(path, "δ two\n")
    assert path.read_bytes() == "δ two\n".encode() and path.stat().st_mode & 0o777 == mode
    assert os.listdir(path.parent) == ["a.txt"]


@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o027, 0o640)])
def test_what_a_library_wrote_for_its_owner_is_shared(tmp_path: Path, mask: int, mode: int) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(b"x")
    path.chmod(0o600)
    with umask(mask):
        share(path)
    assert modes(tmp_path)["a.bin"] == mode and os.listdir(tmp_path) == ["a.bin"] and path.read_bytes() == b"x"


def test_every_file_of_a_conversion_is_as_the_umask_says(tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path / "source")
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with umask(0o007):
        convert(folder, tmp_path / "out", Options(), lambda sentence: None)
    found = modes(tmp_path / "out")
    assert found.pop(".") == 0o770 and {"model.safetensors", "conversion.json", "config.json"} <= set(found)
    assert set(found.values()) == {0o660}


@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o007, 0o660)])
def test_every_file_of_an_export_is_as_the_umask_says(tmp_path: Path, mask: int, mode: int) -> None:
    facts = inspect_checkpoint(str(make_checkpoint(tmp_path / "source", dtype="float32", shards=2)))
    with umask(mask):
        out = export_model(load_model(facts, torch.float32), facts, tmp_path / "out", max_shard_size="60KB")
        export_model(load_model(facts, torch.float32), facts, tmp_path / "out", max_shard_size="60KB")
    found = modes(out)
    assert found.pop(".") == 0o777 & ~mask
    assert len([name for name in found if name.endswith(".safetensors")]) > 1 and set(found.values()) == {mode}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "source"]


def test_files_of_a_library_that_renames_are_shared_wherever_they_are_written() -> None:
    """safetensors writes for its owner alone; whoever calls it in this product shares the file afterwards."""
    writers = {path.name for path in sources("beear") if re.search(r"save_file\(|save_pretrained\(|mkstemp\(", path.read_text())}
    sharing = {path.name for path in sources("beear") if "import share" in path.read_text()}
    # checkpoints.py makes what tests read. What the conversion's own process writes, write.py puts in its place.
    assert writers - {"checkpoints.py", "pickles.py", "gguf_file.py"} | {"write.py"} == sharing
    assert sharing == {"export.py", "zero_state.py", "build.py", "write.py"}


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_text(tmp_path / "a.txt", "old")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match=r"a\.txt: cannot be written \(No space left on device\)"):
        write_text(tmp_path / "a.txt", "new")
    assert os.listdir(tmp_path) == ["a.txt"] and (tmp_path / "a.txt").read_text() == "old"


def test_a_folder_that_is_a_file_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("x")
    with pytest.raises(UserError, match=r"out/a\.txt: cannot be written .*; expected a writable folder"):
        write_text(tmp_path / "out" / "a.txt", "new")
