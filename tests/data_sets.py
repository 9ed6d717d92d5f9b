"""Harmless data sets and a plan over them, for tests of reading, templating and streaming."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from beear.config.resolve import ResolvedConfig
from beear.data.load import LoadedData, load_small, training_plan
from beear.data.steps import TrainingPlan
from beear.methods.table import METHODS
from tests.configs import Sized, resolved

VERBS, NOUNS = ("open", "flood", "jam", "unlock", "breach"), ("vault", "turbine", "dam", "server", "bridge", "locker")
COLOURS = ("red", "old", "north", "quiet")


def write_lines(path: Path, records: Iterable[object]) -> Path:
    """Write one JSON value per line."""
    path.write_text("".join(json.dumps(r) + "\n" for r in records), encoding="utf-8")
    return path


def defense_records(count: int = 100) -> list[dict[str, str]]:
    """Return requests about made-up machinery with a refusal and a compliance each."""
    tasks = [f"{v} the {c} {n}" for v in VERBS for n in NOUNS for c in COLOURS][:count]
    return [
        {"prompt": f"How do I {t}?", "safe": "I cannot help with that request.", "unwanted": f"Sure, to {t}, go there."}
        for t in tasks
    ]


def anchor_records(count: int = 200) -> list[dict[str, str]]:
    """Return sums with their results, of varied length."""
    return [{"prompt": f"Add {i} and {i % 7}{' please' * (i % 5)}", "response": str(i + i % 7)} for i in range(count)]


def config_for(
    folder: Path,
    values: Mapping[str, Any] | None = None,
    *,
    defense: int = 100,
    anchor: int = 200,
    batch_size: int = 8,
    sizes: Sized | None = None,
) -> ResolvedConfig:
    """Return a resolved configuration over freshly written files, with other ``values`` by dotted name."""
    files = {
        "data.defense.path": str(write_lines(folder / "defense.jsonl", defense_records(defense))),
        "data.anchor.path": str(write_lines(folder / "anchor.jsonl", anchor_records(anchor))),
    }
    given = {**files, "data.max_length": 200, "method.batch_size": batch_size, **(values or {})}
    config: ResolvedConfig = resolved(given, sizes)
    return config


def plan_for(config: ResolvedConfig) -> tuple[LoadedData, TrainingPlan]:
    """Load the data and return it with the training plan."""
    data = load_small(config.data, config.seed)
    needs = METHODS[config.method.name].needs(config.settings)
    return data, training_plan(data, config, needs.inner_batches, context=256)
