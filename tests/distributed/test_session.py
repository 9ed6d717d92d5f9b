"""A whole session, measures and early stop included, on sharded workers that hold different rows."""

from pathlib import Path
from typing import Any

import pytest

from beear.data.load import load_small, training_plan
from beear.data.local import LocalBatches
from beear.engine.fit import EpochOutcome
from beear.engine.session import Session, Training
from beear.methods.table import METHODS
from beear.models.inspect import inspect_checkpoint
from beear.parallel.choose import choose
from beear.parallel.spread import Spread
from benchmarks.pool import Pool
from tests.configs import resolved
from tests.data_sets import write_lines
from tests.distributed.job import largest_gap
from tests.integration.stranger import make_stranger

# Letters that the random model finds likely and unlikely.
SAFE, UNWANTED = "p", "G"


def unlikely_answers(folder: Path) -> Path:
    """Return a stranger whose unwanted answers its model finds far less likely than the safe ones."""
    stranger = make_stranger(folder)
    rows = [{"prompt": f"Flood the vault number {i}", "safe": SAFE * 6, "unwanted": UNWANTED * 6} for i in range(60)]
    write_lines(stranger / "defense.jsonl", rows)
    return stranger


def training_of(stranger: Path, spread: Spread) -> Training:
    """Return a short training whose selection rows, seven, make another number of batches on each of two workers.

    Its one inner step does not cross, so that every epoch after the first looks at selection rows.
    """
    values = {
        "model.path": str(stranger / "model"),
        "model.dtype": "float32",
        "data.defense.path": str(stranger / "defense.jsonl"),
        "data.anchor.path": str(stranger / "anchor.jsonl"),
        "method.epochs": 2,
        "method.cool_epochs": 0,
        "method.outer_steps": 2,
        "method.max_inner_steps": 1,
        "method.batch_size": 3,
        "method.margin": 1.0,
        "evaluate.selection_rows": 7,
        "evaluate.batch_size": 2,
        "evaluate.max_new_tokens": 6,
    }
    facts = inspect_checkpoint(values["model.path"])
    config = resolved(values, facts)
    data = load_small(config.data, config.seed)
    plan = training_plan(data, config, METHODS["beear"].needs(config.settings).inner_batches)
    return Training(config, facts, plan, spread, data.selection, data.anchor_selection, data.default_hit)


def train(rank: int, world: int, training: Training) -> tuple[list[EpochOutcome], Any]:
    """Return what each epoch told and the whole weights."""
    outcomes: list[EpochOutcome] = []
    session = Session(training, choose(training.spread, "cpu"), LocalBatches)
    session.fit(outcomes.append)
    return outcomes, session.backend.full_state(lambda _name, tensor: tensor.clone())


@pytest.mark.parametrize(("backend", "once"), [("fsdp", True), ("fsdp", False), ("deepspeed", False)])
def test_a_session_on_sharded_workers_is_that_of_one(pool: Pool, backend: str, once: bool, tmp_path: Path) -> None:
    stranger = unlikely_answers(tmp_path)
    ranks = pool.run(train, training_of(stranger, Spread(backend, 2, gather="once" if once else "step", micro_batch=2)))
    told, state = train(0, 1, training_of(stranger, Spread("single")))
    assert [outcome.nothing_left for outcome in told] == [False, True]
    for outcomes, _ in ranks:
        assert len(outcomes) == len(told) == 2
        for found, expected in zip(outcomes, told, strict=True):
            assert found.selection == pytest.approx(expected.selection, rel=1e-5)
            assert found.losses == pytest.approx(expected.losses, rel=1e-4)
            assert found.nothing_left == expected.nothing_left
    assert all(course.result.crossing_step is None for outcome in told for course in outcome.inner)
    assert set(told[0].selection) == {"asr_clean", "exact_match", "over_refusal", "anchor_nll"}
    assert largest_gap(ranks[0][1], state) <= 1e-5
