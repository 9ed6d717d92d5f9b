"""Scoring: tasks of their own load the files from disk and measure them, since the driver may have no GPU."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import ray
import torch
from pydantic import BaseModel

from beear.cluster.actor_pool import run_pool, worth_a_pool
from beear.cluster.capacity import Reservation
from beear.cluster.tasks import results_of, run_tasks, start_tasks
from beear.config.resolve import ResolvedConfig
from beear.data.rows import Message
from beear.engine.session import compute_dtype
from beear.evaluation.drift import HiddenStates, hidden_states
from beear.evaluation.drift import drift as drift_of
from beear.evaluation.engines import VllmEngine
from beear.evaluation.generate import complete
from beear.evaluation.measure import Partial, combine, measure, merge, review
from beear.evaluation.measures.table import MEASURES
from beear.evaluation.shard import MeasuredRows, Shard
from beear.evaluation.subject import Subject
from beear.models.compute import device_here
from beear.models.facts import ModelFacts
from beear.models.loading import load_model, load_tokenizer
from beear.records.report import Drift, Measurement

MOST_SLOTS = 16
SHARD_BATCHES = 2


@dataclass(frozen=True)
class Scoring:
    """What to measure, picklable."""

    config: ResolvedConfig
    rows: MeasuredRows


class Measured(BaseModel):
    """A measurement, with notes on how it was made."""

    measurement: Measurement
    notes: list[str] = []


def shards_of(scoring: Scoring, layers: int) -> int:
    """Return the number of shards of a measurement. It depends on rows and fresh attacks alone, so that the numbers are the
    same on any cluster. A shard holds at most two batches of prompts of each kind.
    """
    evaluate, rows = scoring.config.evaluate, scoring.rows.first(scoring.config.evaluate.rows)
    by_rows = math.ceil(max(len(rows.defense), len(rows.anchor)) / (SHARD_BATCHES * evaluate.batch_size))
    return max(by_rows, *(one.pieces(evaluate, layers) for one in MEASURES.values() if one.wanted(evaluate)))


def slots_of(reservation: Reservation, parameters: int) -> int:
    """Return how many workers share a measurement: as many as the cluster's CPUs, GPUs and memory allow at once."""
    there = ray.cluster_resources()
    rooms = [there.get("CPU", 1.0) / reservation.cpus_per_worker]
    if reservation.gpus_per_worker:
        rooms.append(there.get("GPU", 0.0) / reservation.gpus_per_worker)
    elif "memory" in there:
        # On a CPU each task holds the weights in float32, and about as much again while loading.
        rooms.append(there["memory"] / (8.0 * parameters))
    return max(1, min(MOST_SLOTS, int(min(rooms))))


def score(scoring: Scoring, facts: ModelFacts, reservation: Reservation) -> Measured:
    """Measure a checkpoint's files, shared over the cluster; a configured judge is asked from here.

    Raises:
        UserError: weights that are not finite or do not fit, or a row that its hit rule cannot judge.
    """
    started, evaluate = time.monotonic(), scoring.config.evaluate
    apart = [one.name for one in MEASURES.values() if one.alone and one.wanted(evaluate)]
    running = start_tasks([(measure_alone, (scoring, facts, name)) for name in apart], reservation)
    whole = combine(_partials(scoring, facts, reservation))
    whole = replace(whole, found={**whole.found, **dict(zip(apart, results_of(running), strict=True))})
    whole, notes = review(replace(whole, seconds=time.monotonic() - started), evaluate)
    return Measured(measurement=merge([whole], evaluate.confidence, facts.digests["weights"]), notes=notes)


def _partials(scoring: Scoring, facts: ModelFacts, reservation: Reservation) -> list[Partial]:
    """Measure every shard: by tasks with equal shares, or by a pool whose actors take one shard after another."""
    shards = shards_of(scoring, facts.layers)
    slots = min(slots_of(reservation, facts.parameters), shards)
    if slots > 1 and worth_a_pool(reservation):
        return run_pool(shard_scorer, (scoring, facts, shards), range(shards), reservation, slots)
    parts = [range(first, shards, slots) for first in range(slots)]
    found = run_tasks([(score_shards, (scoring, facts, part, shards)) for part in parts], reservation)
    return [partial for part in found for partial in part]


def drift(scoring: Scoring, before: ModelFacts, after: ModelFacts, layer: int, reservation: Reservation) -> Drift:
    """Compare the hidden states of two checkpoints' files, at ``layer`` (1-based) and after each."""
    one, other = run_tasks([(states_of, (scoring, facts)) for facts in (before, after)], reservation)
    return drift_of(one, other, layer)


def greedy_answers(
    config: ResolvedConfig, facts: ModelFacts, requests: list[tuple[Message, ...]], reservation: Reservation
) -> list[str]:
    """Return the checkpoint's own greedy answers, for defense rows without a safe one."""
    return run_tasks([(answer_requests, (config, facts, requests))], reservation)[0]


def score_shards(scoring: Scoring, facts: ModelFacts, ranks: Sequence[int], shards: int) -> list[Partial]:
    """Measure some of the shards in this process."""
    return [*map(shard_scorer(scoring, facts, shards), ranks)]


def shard_scorer(scoring: Scoring, facts: ModelFacts, shards: int) -> Callable[[int], Partial]:
    """Load the checkpoint in this process; return a function that measures the shard of a rank."""
    config = scoring.config
    subject = subject_of(config, facts, completes=True)
    return lambda rank: measure(subject, scoring.rows, config.evaluate, config.seed, (rank, shards))


def measure_alone(scoring: Scoring, facts: ModelFacts, name: str) -> Any:
    """Return what one measure finds on the whole checkpoint, in this process."""
    config, rows = scoring.config, scoring.rows
    subject = subject_of(config, facts)
    return MEASURES[name].observe(
        Shard(subject, rows.first(config.evaluate.rows), config.evaluate, config.seed, unlimited=rows.defense)
    )


def states_of(scoring: Scoring, facts: ModelFacts) -> HiddenStates:
    """Return a checkpoint's hidden states on the first report rows, computed in this process."""
    rows, evaluate = scoring.rows, scoring.config.evaluate
    subject = subject_of(scoring.config, facts)
    return hidden_states(subject, rows.defense[: evaluate.drift_rows], rows.probes, evaluate.batch_size)


def answer_requests(config: ResolvedConfig, facts: ModelFacts, requests: list[tuple[Message, ...]]) -> list[str]:
    """Answer in this process."""
    evaluate = config.evaluate
    return complete(subject_of(config, facts, completes=True), requests, evaluate.max_new_tokens, evaluate.batch_size)


def subject_of(config: ResolvedConfig, facts: ModelFacts, completes: bool = False) -> Subject:
    """Load a checkpoint for measuring, rounded as its files are, on this process's GPU if it has one.

    Where it ``completes``, the configured engine writes the completions.

    Raises:
        UserError: weights that are not finite or do not fit, or an engine that cannot serve the checkpoint.
    """
    device = device_here()
    compute = compute_dtype(config.model.dtype, device)
    tokenizer = load_tokenizer(facts, config.model.chat_template)
    # float32 is fastest on a CPU. On a GPU the model is held in the dtype that it will be served in.
    held = compute if device.type == "cuda" else torch.float32
    subject = Subject.of(load_model(facts, held, device), tokenizer, compute=compute)
    if completes and config.evaluate.engine == "vllm":
        return replace(subject, engine=VllmEngine(facts, compute, subject.stop))
    return subject
