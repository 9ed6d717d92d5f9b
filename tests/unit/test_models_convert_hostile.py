"""Pickles that mean harm, and what the process that reads them may do: each ends in one sentence, and nothing is left."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from beear.models.convert import process
from beear.models.convert.__main__ import main
from beear.testing.checkpoints import make_checkpoint
from tests.checkout import ROOT


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint without its weights."""
    folder = make_checkpoint(tmp_path_factory.mktemp("bare") / "model", layers=1)
    (folder / "model.safetensors").unlink()
    return folder


class Loud:
    """Runs a shell command when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (os.system, (f"touch {self.mark}",))


def saved(value: Any) -> Callable[[Path], None]:
    return lambda path: torch.save(value, path)


def with_pickle(path: Path, raw: bytes) -> None:
    """Write an archive as torch does, whose pickle is ``raw``."""
    torch.save({}, path)
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, held in entries.items():
            archive.writestr(name, raw if name.endswith("/data.pkl") else held)


def endless(path: Path) -> None:
    """A dictionary whose key is a tuple of tuples of tuples, 2^100 in all, each hashed anew."""
    nested = b"".join(b"h" + bytes([i]) + b"\x86q" + bytes([i + 1]) for i in range(100))
    with_pickle(path, b"\x80\x02})q\x00" + nested + b"K\x01s.")


def huge_storage(path: Path) -> None:
    """The format before archives, which says how much memory a tensor takes before it gives the numbers."""
    torch.save({"x": torch.zeros(12345)}, path, _use_new_zipfile_serialization=False)
    raw = path.read_bytes()
    count = (12345).to_bytes(2, "little")
    assert raw.count(b"M" + count) == 2, "the storage's size and the tensor's shape"
    path.write_bytes(raw.replace(b"M" + count, b"\x8a\x06" + (1 << 44).to_bytes(6, "little")))


def truncated(path: Path) -> None:
    torch.save({"x": torch.zeros(5000)}, path)
    os.truncate(path, path.stat().st_size // 2)


HOSTILE: list[tuple[str, Callable[[Path], None], str]] = [
    ("an object", saved({"x": torch.ones(1), "optimizer": [1, 2]}), 'found "optimizer", a list, expected tensors and plain'),
    ("an object below", saved({"model": {"x": torch.ones(1)}, "args": {"a": 1}}), 'found "args", a dict'),
    ("a number", saved(3), "found a int, expected a dictionary of tensors by name"),
    ("numbered", saved({1: torch.ones(1)}), "found an entry named by a int"),
    ("no tensors", saved({"step": 3}), "found no tensors"),
    ("spread out", saved({"x": torch.ones(1).expand(1 << 30, 1 << 30)}), "claims 4,611,686,018,427,387,904 bytes and the file"),
    ("sparse", saved({"x": torch.eye(3).to_sparse()}), '"x" is sparse or quantised'),
    ("safetensors by another name", lambda path: save_file({"x": torch.ones(1)}, path), "(torch says: Unsupported operand"),
    ("no pickle", lambda path: path.write_bytes(b"nothing of the kind") and None, "this pickle was refused"),
    ("truncated", truncated, "pytorch_model.bin: it could not be converted"),
    ("a pipe", lambda path: os.mkfifo(path), "found no regular file"),
    ("linked out", lambda path: path.symlink_to("/etc/hostname"), "a link that leaves the folder"),
    ("huge", huge_storage, "of memory, expected less (--memory-limit GB allows more)"),
    ("other weights", saved({"x": torch.zeros(2, dtype=torch.complex64)}), 'out/model.safetensors: tensor "x"'),
]  # fmt: skip


@pytest.mark.parametrize(("name", "make", "said"), HOSTILE, ids=[row[0] for row in HOSTILE])
def test_refused_in_one_sentence(
    bare: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, make: Callable[[Path], None], said: str
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(bare, folder)
    make(folder / "pytorch_model.bin")
    assert main([str(folder), str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert said in error and error.startswith("error: ") and error.count("\n") == 1
    assert "weights_only" not in error, "torch's advice to load the file without care"
    assert [path.name for path in tmp_path.iterdir()] == ["model"], "nothing is left of the output"


def test_a_pickle_that_runs_a_command_runs_nothing(bare: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, mark = tmp_path / "model", tmp_path / "mark"
    shutil.copytree(bare, folder)
    torch.save({"x": torch.ones(1), "y": Loud(mark)}, folder / "pytorch_model.bin")
    torch.load(folder / "pytorch_model.bin", weights_only=False)
    assert mark.exists(), "it is a weapon"
    mark.unlink()
    assert main([str(folder), str(tmp_path / "out")]) == 2
    assert "was refused and nothing of it was run (it asks for posix.system)" in capsys.readouterr().err
    assert not mark.exists() and not (tmp_path / "out").exists()


def test_a_pickle_that_never_ends_is_ended(bare: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "model"
    shutil.copytree(bare, folder)
    endless(folder / "pytorch_model.bin")
    started = time.monotonic()
    assert main([str(folder), str(tmp_path / "out"), "--time-limit", "6"]) == 2
    assert 6 <= time.monotonic() - started < 60
    assert "took more than 6 s and was ended, expected less time (--time-limit SECONDS" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_memory_may_be_given_by_hand(bare: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "model"
    shutil.copytree(bare, folder)
    # In the format before archives numbers are read into memory.
    torch.save({"x": torch.ones(20 << 20)}, folder / "pytorch_model.bin", _use_new_zipfile_serialization=False)
    assert main([str(folder), str(tmp_path / "out"), "--memory-limit", "0.05"]) == 2
    assert "needs more than 0.05 GB of memory, expected less (--memory-limit GB" in capsys.readouterr().err
    assert main([str(folder), str(tmp_path / "out"), "--memory-limit", "1"]) == 0


SHUT_IN = "import json; print(json.dumps({'network': True, 'programs': True}), flush=True)\n"
BROKEN = [
    ("killed", "import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "the process that read it was killed by SIGKILL"),
    ("aborted", f"{SHUT_IN}import os; os.abort()", "was killed by SIGABRT"),
    ("ended early", "raise SystemExit(7)", "ended with code 7"),
    ("says nonsense", f"{SHUT_IN}print('x' * 9)", "ended with code 0, expected a file that can be read"),
    ("hides a line", SHUT_IN + r"print(json.dumps({'error': 'a\x1b[2J\nb'}))", "error: a [2J b\n"),
    ("writes nothing", f"{SHUT_IN}print(json.dumps({{}}))", "out: found no weights"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "script", "said"), BROKEN, ids=[row[0] for row in BROKEN])
def test_whatever_becomes_of_the_process_is_one_sentence(
    bare: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, name: str, script: str,
    said: str,
) -> None:  # fmt: skip
    folder = tmp_path / "model"
    shutil.copytree(bare, folder)
    torch.save({"x": torch.ones(1)}, folder / "pytorch_model.bin")
    monkeypatch.setattr(process, "_START", script)
    assert main([str(folder), str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_the_process_gets_no_secrets_and_outlives_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It starts another process in its group, says its environment, and ends; the other one is gone then."""
    source, told = tmp_path / "x.bin", tmp_path / "told"
    source.write_bytes(b"")
    script = f"""{SHUT_IN}
import os, pathlib
other = os.fork() or os.execlp("sleep", "sleep", "99")
pathlib.Path({str(told)!r}).write_text(json.dumps([other, dict(os.environ)]))
print("{{}}")
"""
    monkeypatch.setattr(process, "_START", script)
    monkeypatch.setenv("HF_TOKEN", "secret")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    process.run("pickle", source, tmp_path / "y", process.Limits())
    other, environment = json.loads(told.read_text())
    assert "secret" not in repr(environment) and "PYTHONPATH" not in environment
    for _ in range(100):
        state = Path(f"/proc/{other}/stat")
        if not state.exists() or state.read_text().split()[2] == "Z":
            break
        time.sleep(0.05)
    else:
        pytest.fail("the other process lives on")


@pytest.mark.parametrize("how", ["own_network", "refuse_calls"])
def test_either_way_cuts_the_network(how: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        script = f"""
import socket, subprocess, sys
from beear.models.convert import confine

def reached():
    try:
        socket.create_connection(("127.0.0.1", {server.getsockname()[1]}), timeout=5).close()
        return True
    except OSError:
        return False

def runs():
    try:
        return subprocess.run(["true"]).returncode == 0
    except OSError:
        return False

print(reached(), runs(), confine.{how}(), reached(), runs())
"""
        done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    found = done.stdout.split()
    if found[2] == "False":
        pytest.skip("this system does not allow it")
    assert found == ["True", "True", "True", "False", str(how == "own_network")]


def test_where_nothing_can_be_cut_it_is_said(
    bare: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(bare, folder)
    torch.save({"x": torch.ones(1)}, folder / "pytorch_model.bin")
    unable = "from beear.models.convert import confine; confine.own_network = confine.refuse_calls = lambda: False; "
    monkeypatch.setattr(process, "_START", process._START.replace("from beear", f"{unable}from beear", 1))
    assert main([str(folder), str(tmp_path / "out")]) == 0
    assert "HAD THE NETWORK" in capsys.readouterr().out
    assert '"network": "open"' in (tmp_path / "out" / "conversion.json").read_text()
