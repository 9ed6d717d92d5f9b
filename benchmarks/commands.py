"""The main command's time: with nothing cached, retraining with the backdoored model cached, and a repeated call."""

import shutil
from pathlib import Path
from typing import Any

from benchmarks.jobs import Finished, run

LIMITS = {"first": 240, "retrain": 120, "again": None}


def measure(folder: Path) -> dict[str, Any]:
    """Run the three and return their seconds, exit codes and stages."""
    shutil.rmtree(folder, ignore_errors=True)
    found = {"first": run(folder), "retrain": run(folder, "--fresh"), "again": run(folder)}
    return {name: _record(done, folder) for name, done in found.items()}


def _record(done: Finished, folder: Path) -> dict[str, Any]:
    if done.report is None:
        raise RuntimeError(f"no report was written (exit code {done.code}):\n{done.said}")
    said = done.said.replace(str(folder.resolve()), "FOLDER")
    return {"seconds": done.seconds, "code": done.code, "stages": done.report["seconds"], "said": said[-4000:]}


def markdown(result: dict[str, Any]) -> str:
    """Return the section of docs/results.md."""
    titles = {
        "first": "nothing cached: implants the backdoor first",
        "retrain": "`--fresh`, backdoored model cached",
        "again": "the same command again: nothing retrained",
    }
    rows = [
        f"| {titles[name]} | {found['seconds']:.0f} | {LIMITS[name] or ''} | {found['code']} |" for name, found in result.items()
    ]
    stages = ", ".join(f"{name} {seconds:.0f} s" for name, seconds in result["retrain"]["stages"].items())
    return "\n".join(
        [
            "## The main command",
            "",
            "`python pipelines/sanitize.py` on the built-in model, after set-up.",
            "",
            "| run | seconds | limit | exit code |",
            "|---|---|---|---|",
            *rows,
            "",
            f"Stages of the retraining run: {stages}.",
            "",
            "```text",
            result["retrain"]["said"].strip("\n"),
            "```",
            "",
        ]
    )
