"""Records the frozen surfaces: ``python -m tests.frozen.record [NAME ...]`` (all by default).

To be run only where a surface was changed on purpose; the change then shows as a change of the recorded files.
"""

import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.frozen import commands, run, shapes
from tests.processes import MlflowServer

RECORDED = Path(__file__).with_name("recorded")
# Places in report.json that are new on purpose: schema 1.1 holds there what measures of other packages find, schema 1.2 where
# converted weights come from. Then settings that are new.
ADDED: frozenset[str] = frozenset(
    {"before.measures", "after.measures", "changes", "conversions"}
    | {"data.system", "data.defense.report_columns", "data.anchor.report_columns"}
)


def _each(take: Callable[[Any, Path], Any], cases: dict[str, Any]) -> Callable[[Path], dict[str, Any]]:
    """Return what takes every case, each in a folder of its own."""

    def all_of_them(folder: Path) -> dict[str, Any]:
        found = {}
        for number, (name, case) in enumerate(cases.items()):
            place = folder / str(number)
            place.mkdir()
            found[name] = take(case, place)
        return found

    return all_of_them


def _run(folder: Path) -> dict[str, Any]:
    server, out, measured = MlflowServer(folder), *(folder / name / "out" for name in run.COMMANDS)
    for path in (out, measured):
        path.parent.mkdir()
    server.start()
    try:
        done = commands.call("sanitize", run.sanitize_words(out, server.uri))
    finally:
        server.kill()
    found = {"machine": run.machine(), "sanitize": run.written("sanitize", done, out)}
    done = commands.call("evaluate", run.evaluate_words(out, measured))
    return {**found, "evaluate": run.written("evaluate", done, measured)}


SURFACES: dict[str, Callable[[Path], Any]] = {
    "help": lambda _: {name: commands.help_of(name) for name in commands.NAMES},
    "defaults": lambda _: shapes.defaults(),
    "schemas": lambda _: shapes.schemas(),
    "identities": shapes.identities,
    "exits": _each(commands.outcome, commands.CASES),
    "dry_runs": _each(commands.dry_run, {name: name for name in commands.DRY_RUNS}),
    "run": _run,
}


def recorded(name: str) -> Any:
    """Return a surface as it was recorded."""
    return json.loads((RECORDED / f"{name}.json").read_text(encoding="utf-8"))


def main(names: list[str]) -> int:
    """Record the named surfaces and return the exit code."""
    for name in names or SURFACES:
        with tempfile.TemporaryDirectory() as folder:
            text = json.dumps(SURFACES[name](Path(folder)), indent=1, ensure_ascii=False)
        RECORDED.mkdir(exist_ok=True)
        (RECORDED / f"{name}.json").write_text(text + "\n", encoding="utf-8")
        print(name, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
