"""Runs at their first two stages over small files, for tests that need a run and no cluster."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from beear.cluster.capacity import Reservation
from beear.data.load import load_small
from beear.methods.configuration import resolved
from beear.models.facts import ModelFacts
from beear.parallel.spread import Spread
from beear.run.longest_rows import Lengths
from beear.run.stages import Checked, Placed
from tests.configs import asked, asked_search
from tests.data_sets import anchor_records, defense_records, write_lines

# A model that no file stands behind.
FACTS = ModelFacts("m", "LlamaForCausalLM", "llama", 6, 128, 1200, 512, 1_400_000, True, "float32", {"weights": "w"})
LENGTHS = Lengths(prompt=64, safe=16, unwanted=16, text=96, labelled=32)


def checked_run(
    folder: Path, values: Mapping[str, Any] | None = None, kind: str = "sanitize", facts: ModelFacts = FACTS
) -> Checked:
    """Return a checked run over files that are written to ``folder``, with ``values`` by dotted name."""
    files = {
        "data.defense.path": str(write_lines(folder / "defense.jsonl", defense_records())),
        "data.anchor.path": str(write_lines(folder / "anchor.jsonl", anchor_records())),
        "output.dir": str(folder / "out"),
        "tracking.uri": f"sqlite:///{folder}/runs.db",
    }
    given = {**files, **(values or {})}
    run = asked_search(given) if kind == "tune" else asked(given)
    config, choices = resolved(run, facts)
    data, room = load_small(config.data, config.seed), {"prompt": 20, "user": 12}
    return Checked(kind, kind != "evaluate", run, config, facts, data, LENGTHS, room, tuple(choices), {}, "0123456789abcdef")


def placed_run(checked: Checked, spread: Spread | None = None, gpus: float = 0.0) -> Placed:
    """Return it with a place: ``gpus`` a worker, and weights that lie as ``spread`` says (unset: on one worker)."""
    parallel = checked.parallel
    reservation = Reservation(parallel.workers, parallel.cpus_per_worker, gpus, parallel.data_cpus)
    return Placed(checked, reservation, spread or Spread("single"), checked.data, checked.choices)
