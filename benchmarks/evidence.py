"""Makes the evidence.

    python -m benchmarks.evidence [PART ...]       measures the parts (by default all that this code has not measured yet)
    python -m benchmarks.evidence --record FILE    keeps what ``benchmarks.gpu --json FILE`` measured on another machine

Work under way is kept by the code it was done with, so that a part cut off goes on and no figure outlives a change. Each
part keeps its raw results in ``docs/evidence/PART.json``; docs/results.md and docs/performance.md are written from those.
"""

import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from beear.errors import UserError
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
    records,
    recovery,
    search,
    stranger,
    stream,
    workers,
)

WORK = records.ROOT / ".cache" / "evidence"


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


def main(words: list[str]) -> int:
    """Run the named parts, or record a GPU's run, and rewrite the pages."""
    if words[:1] == ["--record"] and len(words) == 2:
        try:
            records.write("gpu", **gpu.recorded(Path(words[1])))
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)
            return 2
        write_pages()
        return 0
    unknown = [name for name in words if name not in PARTS]
    if unknown:
        print(f"error: unknown part {unknown[0]}; expected {', '.join(PARTS)}", file=sys.stderr)
        return 2
    commit = records.this_commit()
    for name in words or [part for part in PARTS if records.measured_at(part) != commit]:
        print(f"== {name}", flush=True)
        if commit.endswith(records.DIRTY):
            # One name for any change: what an earlier one left says nothing of this one.
            shutil.rmtree(WORK / commit / name, ignore_errors=True)
        started = time.monotonic()
        found = PARTS[name].run(WORK / commit / name)
        if not found:
            print(f"{name}: nothing to measure; what is kept stays", flush=True)
            continue
        records.write(
            name,
            found,
            date=time.strftime("%Y-%m-%d"),
            machine=records.this_machine(),
            commit=commit,
            seconds=time.monotonic() - started,
        )
    write_pages()
    return 0


def write_pages() -> None:
    """Write the pages from what is kept."""
    for page, heading in HEADINGS.items():
        text = [heading]
        for name, part in PARTS.items():
            if part.page != page:
                continue
            record = records.read(name)
            if record is None:
                text.append(f"## {name}\n\nNot measured yet: `make evidence PART={name}`.\n")
                continue
            try:
                text.append(part.markdown(record["result"]))
            except KeyError:
                # Measured when the part asked for other figures.
                text.append(f"## {name}\n\nNot measured again yet: `make evidence PART={name}`.\n")
                continue
            text.append(f"*`make evidence PART={name}`, {record['date']}, {record['machine']}, commit {record['commit']}.*\n")
        (records.ROOT / "docs" / page).write_text("\n".join(text))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
