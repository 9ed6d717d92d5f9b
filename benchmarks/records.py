"""Measured results as docs/evidence holds them, one file per part, and by what code and on what machine they were made."""

import json
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "docs" / "evidence"
DIRTY = "-dirty"


def read(part: str) -> dict[str, Any] | None:
    """Return a part's record, or None where it was never measured."""
    path = FOLDER / f"{part}.json"
    return json.loads(path.read_text()) if path.exists() else None


def write(part: str, result: dict[str, Any], *, date: str, machine: str, commit: str, seconds: float) -> None:
    """Replace a part's record."""
    record = {"date": date, "machine": machine, "commit": commit, "result": result, "seconds": round(seconds, 1)}
    FOLDER.mkdir(parents=True, exist_ok=True)
    (FOLDER / f"{part}.json").write_text(json.dumps(record, indent=1) + "\n")


def measured_at(part: str) -> str | None:
    """Return the commit that a part was measured at; None where files differed from it, or the part was never measured."""
    record = read(part)
    commit = str(record["commit"]) if record else None
    return None if commit and commit.endswith(DIRTY) else commit


def this_machine() -> str:
    """Return this machine in words."""
    import torch

    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    return f"{os.cpu_count()} CPU cores ({platform.machine()}), {gpu}, Python {platform.python_version()}"


def this_commit() -> str:
    """Return the last commit that changed more than words, with ``-dirty`` where files differ from it now."""

    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True).stdout.strip()

    code = (".", ":!docs", ":!*.md")
    changed = git("status", "--porcelain", "--", *code)
    return (git("log", "-1", "--format=%h", "--", *code) or "unknown") + (DIRTY if changed else "")
