"""Makes the evidence: ``python -m benchmarks.evidence [PART ...]`` (by default all that this code has not measured yet).

Work under way is kept by the code it was done with, so that a part cut off goes on and no figure outlives a change. Each
part keeps its raw results in ``docs/evidence/PART.json``; docs/results.md and docs/performance.md are written from those.
"""

import json
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import (
    agreement,
    backdoors,
    backends,
    commands,
    entrapment,
    evaluation,
    gpu,
    memory,
    orchestration,
    padding,
    recovery,
    search,
    stranger,
    stream,
    workers,
)

ROOT = Path(__file__).resolve().parents[1]
DIRTY = "-dirty"
KEPT, WORK = ROOT / "docs" / "evidence", ROOT / ".cache" / "evidence"


@dataclass(frozen=True)
class Part:
    """A part: ``run(work folder)`` returns plain data, ``markdown(data)`` its section of ``page``."""

    run: Callable[[Path], dict[str, Any]]
    markdown: Callable[[dict[str, Any]], str]
    page: str = "results.md"


PARTS = {
    "commands": Part(commands.measure, commands.markdown),
    "backdoors": Part(backdoors.measure, backdoors.markdown),
    "stranger": Part(stranger.measure, stranger.markdown),
    "agreement": Part(agreement.measure, agreement.markdown),
    "workers": Part(workers.measure, workers.markdown),
    "recovery": Part(recovery.measure, recovery.markdown),
    "kills": Part(recovery.measure_sharded, recovery.markdown_sharded),
    "search": Part(search.measure, search.markdown),
    "streaming": Part(stream.measure, stream.markdown, "performance.md"),
    "evaluation": Part(evaluation.measure, evaluation.markdown, "performance.md"),
    "padding": Part(padding.measure, padding.markdown, "performance.md"),
    "entrapment": Part(entrapment.measure, entrapment.markdown, "performance.md"),
    "backends": Part(backends.measure, backends.markdown, "performance.md"),
    "orchestration": Part(orchestration.measure, orchestration.markdown, "performance.md"),
    "memory": Part(memory.measure, memory.markdown, "performance.md"),
    "gpu": Part(gpu.measure, gpu.markdown, "performance.md"),
}

HEADINGS = {
    "results.md": "# Results\n\nWhat was measured, with what command, and what it stands beside. Nothing here says that "
    "a model is free of backdoors: the figures are reduced measured ASR. What was tried on the way to the defaults is in "
    "[negative-results.md](negative-results.md).\n",
    "performance.md": "# Performance\n\nSpeed and memory, each with the command that measures it. How the fast core and the "
    "backends work is in [parallel.md](parallel.md). A speed is a ratio between two ways that took turns on one machine; what "
    "bounds it is said beside it.\n",
}


def main(names: list[str]) -> int:
    """Run the named parts and rewrite the pages."""
    unknown = [name for name in names if name not in PARTS]
    if unknown:
        print(f"error: unknown part {unknown[0]}; expected {', '.join(PARTS)}", file=sys.stderr)
        return 2
    code = commit()
    for name in names or [part for part in PARTS if measured_at(part) != code]:
        print(f"== {name}", flush=True)
        if code.endswith(DIRTY):
            # One name for any change: what an earlier one left says nothing of this one.
            shutil.rmtree(WORK / code / name, ignore_errors=True)
        started = time.monotonic()
        found = PARTS[name].run(WORK / code / name)
        if not found:
            print(f"{name}: nothing to measure; what is kept stays", flush=True)
            continue
        KEPT.mkdir(parents=True, exist_ok=True)
        record = {"date": time.strftime("%Y-%m-%d"), "machine": machine(), "commit": code, "result": found}
        record["seconds"] = round(time.monotonic() - started, 1)
        (KEPT / f"{name}.json").write_text(json.dumps(record, indent=1) + "\n")
    write_pages()
    return 0


def measured_at(part: str) -> str | None:
    """Return the commit that a part's kept figures were made with; one with changes on top never counts."""
    kept = KEPT / f"{part}.json"
    found = str(json.loads(kept.read_text())["commit"]) if kept.exists() else None
    return None if found and found.endswith(DIRTY) else found


def write_pages() -> None:
    """Write the pages from what is kept."""
    for page, heading in HEADINGS.items():
        text = [heading]
        for name, part in PARTS.items():
            kept = KEPT / f"{name}.json"
            if part.page != page:
                continue
            if not kept.exists():
                text.append(f"## {name}\n\nNot measured yet: `make evidence PART={name}`.\n")
                continue
            record = json.loads(kept.read_text())
            try:
                text.append(part.markdown(record["result"]))
            except KeyError:
                # Measured when the part asked for other figures.
                text.append(f"## {name}\n\nNot measured again yet: `make evidence PART={name}`.\n")
                continue
            text.append(f"*`make evidence PART={name}`, {record['date']}, {record['machine']}, commit {record['commit']}.*\n")
        (ROOT / "docs" / page).write_text("\n".join(text))


def machine() -> str:
    """Return the machine in words."""
    import os

    import torch

    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    return f"{os.cpu_count()} CPU cores ({platform.machine()}), {gpu}, Python {platform.python_version()}"


def commit() -> str:
    """Return the last commit that changed more than words, marked where files differ from it now."""

    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True).stdout.strip()

    code = (".", ":!docs", ":!*.md")
    changed = git("status", "--porcelain", "--", *code)
    return (git("log", "-1", "--format=%h", "--", *code) or "unknown") + (DIRTY if changed else "")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
