"""A file is written whole or not at all."""

import os
from pathlib import Path

import pytest

from beear.errors import UserError
from beear.files import write_text


def test_what_is_written_is_there_for_everyone_to_read(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.txt"
    write_text(path, "δ one")
    write_text(path, "δ two\n")
    assert path.read_bytes() == "δ two\n".encode() and path.stat().st_mode & 0o777 == 0o644
    assert os.listdir(path.parent) == ["a.txt"]


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
