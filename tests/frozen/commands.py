"""The four commands as a user calls them: their help, their exit codes, what a dry run says.

They were recorded in processes of their own (:func:`call`); tests call them in their own process (:func:`call_here`).
"""

import os
import re
import runpy
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

from tests.checkout import ROOT
from tests.in_process import run_here

NAMES = ("sanitize", "evaluate", "tune", "implant")
Call = Callable[..., subprocess.CompletedProcess[str]]
_ENTRY = re.compile(r"^  (--[\w.-]+)(?: \[([^\[\]]*)\])?(?: ([A-Z]+))?(?:\s+(\S.*))?$")
_MORE = re.compile(r"^ {8,}(\S.*)$")
_TAKES = re.compile(r"\(([^()]*)\)$")


@dataclass(frozen=True)
class Case:
    """One call: ``words`` after the program's name, with ``TMP`` for a folder of the case's own.

    ``names`` is what a refusal must say: the field or the option at fault. ``files`` are made in the folder first.
    """

    command: str
    words: tuple[str, ...]
    names: str = ""
    files: tuple[tuple[str, str], ...] = ()


CASES = {
    "help": Case("sanitize", ("--help",)),
    "unknown option": Case("sanitize", ("--method.layres", "3"), "method.layres"),
    "unknown switch": Case("implant", ("--resume",), "resume"),
    "stray word": Case("evaluate", ("layer",), "layer"),
    "no value": Case("evaluate", ("--seed",), "seed"),
    "wrong kind of value": Case("sanitize", ("--method.layer", "many"), "method.layer"),
    "out of bounds": Case("tune", ("--search.trials", "0"), "search.trials"),
    "two fields at odds": Case("implant", ("--data.defense", "a.jsonl"), "data.anchor"),
    "missing configuration file": Case("sanitize", ("--config", "TMP/none.yaml"), "none.yaml"),
    "unknown key in a file": Case("tune", ("--config", "TMP/run.yaml"), "serach", (("run.yaml", "serach:\n  trials: 2\n"),)),
    "output folder is a file": Case("sanitize", ("--output.dir", "TMP/out"), "output.dir", (("out", ""),)),
    "missing checkpoint": Case("evaluate", ("--model.path", "TMP/none", "--dry-run"), "none"),
    "missing data file": Case("sanitize", ("--data.defense.path", "TMP/none.jsonl", "--dry-run"), "none.jsonl"),
    "too deep a layer": Case("sanitize", ("--method.layer", "99", "--dry-run"), "method.layer"),
    "unknown attack": Case("sanitize", ("--model.path", "testbed:short-sufix", "--dry-run"), "short-sufix"),
    "unknown space": Case("tune", ("--search.space", "lama", "--dry-run"), "search.space"),
    "dry run of an implant": Case("implant", ("--dry-run",)),
}
DRY_RUNS = {
    "sanitize": (),
    "evaluate": (),
    "tune": (),
    "sanitize, finetune": ("--method.name", "finetune", "--parallel.workers", "2"),
}


def environment() -> dict[str, str]:
    """Return a user's environment on one thread and no GPU, without what other tests set."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "MLFLOW_"))}
    fixed = {
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
        "OMP_WAIT_POLICY": "PASSIVE",
        "TOKENIZERS_PARALLELISM": "false",
        "RAY_USAGE_STATS_ENABLED": "0",
        "CUDA_VISIBLE_DEVICES": "",
        "COLUMNS": "110",
    }
    return {"BEEAR_CACHE": str(ROOT / ".cache" / "testbed"), **kept, **fixed}


def call(command: str, words: tuple[str, ...], **more: str) -> subprocess.CompletedProcess[str]:
    """Run a command; ``more`` are variables of its environment."""
    program = [sys.executable, str(ROOT / "pipelines" / f"{command}.py"), *words]
    return subprocess.run(program, cwd=ROOT, env=environment() | more, capture_output=True, text=True)


def call_here(command: str, words: tuple[str, ...], **more: str) -> subprocess.CompletedProcess[str]:
    """Run a command's script in this process, which has imported what it imports; it must need no Ray."""
    program = str(ROOT / "pipelines" / f"{command}.py")
    given = [program, *words]
    with mock.patch.dict(os.environ, environment() | more, clear=True), mock.patch.object(sys, "argv", given):
        return run_here(given, lambda: runpy.run_path(program, run_name="__main__"), ROOT)


def help_of(command: str, call: Call = call) -> dict[str, dict[str, str | None]]:
    """Return every option and field that a command's help names, with its default and the words in the last parentheses."""
    done = call(command, ("--help",))
    assert done.returncode == 0, done.stderr
    return read_help(done.stdout)


def read_help(text: str) -> dict[str, dict[str, str | None]]:
    """Read a help text; the words of a description are left out, but for what stands in parentheses at its end."""
    found: dict[str, dict[str, str | None]] = {}
    words: dict[str, list[str]] = {}
    name = ""
    for line in text.splitlines():
        if entry := _ENTRY.match(line):
            name = entry[1]
            found[name], words[name] = {"default": entry[2], "value": entry[3]}, [entry[4] or ""]
        elif name and (more := _MORE.match(line)):
            words[name].append(more[1])
        else:
            name = ""
    for name, parts in words.items():
        takes = _TAKES.search(" ".join(parts))
        found[name]["takes"] = takes[1] if takes else None
    return found


def outcome(case: Case, folder: Path, call: Call = call) -> dict[str, Any]:
    """Return how a call ended: its exit code, and for a refusal whether it is one plain sentence that names the field."""
    for name, text in case.files:
        (folder / name).write_text(text)
    done = call(case.command, tuple(word.replace("TMP", str(folder)) for word in case.words), BEEAR_CACHE=str(folder / "cache"))
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    return {
        "code": done.returncode,
        "error lines": len(errors),
        "said last": bool(errors) and done.stderr.rstrip("\n").endswith(errors[-1]),
        "traceback": "Traceback" in done.stderr,
        "names it": bool(case.names) and any(case.names in line for line in errors),
        "left behind": sorted(path.name for path in folder.iterdir() if path.name not in dict(case.files)),
    }


def dry_run(name: str, folder: Path, call: Call = call) -> list[str]:
    """Return the lines of a dry run where no model is made yet, without what depends on this machine."""
    command, cache, out = name.split(",")[0], folder / "cache", folder / "out"
    done = call(command, ("--dry-run", "--output.dir", str(out), *DRY_RUNS[name]), BEEAR_CACHE=str(cache))
    assert done.returncode == 0, done.stderr
    assert not out.exists(), "a dry run touches nothing"
    text = done.stdout.replace(str(cache), "CACHE").replace(str(out), "OUT")
    # A cached folder's key follows from the code that makes it.
    lines = re.sub(r"(CACHE/testbed/data-[a-z-]+-)[0-9a-f]{12}", r"\1KEY", text).splitlines()
    # What this machine's memory holds is no rule of the program.
    return [" ".join(line.split()) for line in lines if line.strip() and not line.startswith("CPU")]
