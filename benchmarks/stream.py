"""Streaming at scale: runs ``benchmarks/streaming.py`` and keeps its figures."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

SCRIPT = Path(__file__).with_name("streaming.py")


def measure(_folder: Path) -> dict[str, Any]:
    """Run the script at its full size and return the JSON of its last line and the table above it."""
    done = subprocess.run([sys.executable, str(SCRIPT)], capture_output=True, text=True)
    *table, last = done.stdout.strip().splitlines()
    return {**json.loads(last), "table": "\n".join(table)}


def markdown(result: dict[str, Any]) -> str:
    """Return the section of docs/performance.md."""
    verdict = "within" if result["within_limits"] else "NOT within"
    return "\n".join(
        [
            "## Streaming",
            "",
            f"An anchoring file of 1,000,000 rows beside its first 10,000; {result['large']['batches']:.0f} global batches of 16 "
            f"rows drawn from each through Ray Data, no model in the worker; {verdict} the limits (first batch 20 s after the "
            "worker's start, growth of peak PSS under 1 GB).",
            "",
            "```text",
            result["table"],
            "```",
            "",
        ]
    )
