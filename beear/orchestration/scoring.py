"""The scoring stage: files are loaded from disk by tasks of their own, which may need a GPU the driver lacks."""

from dataclasses import dataclass
from typing import Any

import ray
import torch

from beear.config.schema import RunConfig
from beear.data.rows import Message
from beear.evaluation.generate import complete
from beear.evaluation.measure import MeasuredRows, measure, merge
from beear.evaluation.outcomes import Partial
from beear.evaluation.subject import Subject
from beear.engine.session import compute_dtype
from beear.models.facts import ModelFacts
from beear.models.loading import load_model, load_tokenizer
from beear.orchestration.cluster import Plan
from beear.orchestration.tasks import Task, run_tasks
from beear.report.schema import Drift, Measurement

MOST_SHARDS = 16


@dataclass(frozen=True)
class Scoring:
    """What to measure, picklable; ``config`` is resolved."""

    config: RunConfig
    rows: MeasuredRows


def shards_of(plan: Plan) -> int:
    """Return how many tasks share a measurement: as many as the cluster has room for at once."""
    there = ray.cluster_resources()
    rooms = [there.get("CPU", 1.0) / plan.cpus_per_worker]
    if plan.gpus_per_worker:
        rooms.append(there.get("GPU", 0.0) / plan.gpus_per_worker)
    return max(1, min(MOST_SHARDS, int(min(rooms))))


def score(scoring: Scoring, facts: ModelFacts, plan: Plan) -> Measurement:
    """Measure a checkpoint's files, shared over the cluster.

    Raises:
        UserError: weights that are not finite or do not fit, or a row that its hit rule cannot judge.
    """
    shards = shards_of(plan)
    tasks: list[Task] = [(score_shard, (scoring, facts, (rank, shards))) for rank in range(shards)]
    partials: list[Partial] = run_tasks(tasks, plan)
    return merge(partials, scoring.config.evaluate.confidence, facts.digests["weights"])


def drift(scoring: Scoring, before: ModelFacts, after: ModelFacts, plan: Plan) -> Drift:
    """Compare the hidden states of two checkpoints' files."""
    return run_tasks([(drift_between, (scoring, before, after))], plan)[0]


def greedy_answers(
    config: RunConfig, facts: ModelFacts, requests: list[tuple[Message, ...]], plan: Plan
) -> list[str]:
    """Return the checkpoint's own greedy answers, for defense rows without a safe one."""
    return run_tasks([(answer_requests, (config, facts, requests))], plan)[0]


def score_shard(scoring: Scoring, facts: ModelFacts, shard: tuple[int, int]) -> Partial:
    """Measure one shard in this process."""
    config = scoring.config
    return measure(subject_of(config, facts), scoring.rows, config.evaluate, config.seed, shard)


def drift_between(scoring: Scoring, before: ModelFacts, after: ModelFacts) -> Drift:
    """Compare two checkpoints in this process."""
    from beear.evaluation.drift import measure_drift

    config = scoring.config
    assert config.method.layer is not None
    one, other = subject_of(config, before), subject_of(config, after)
    return measure_drift(one, other, scoring.rows, config.method.layer, config.evaluate)


def answer_requests(config: RunConfig, facts: ModelFacts, requests: list[tuple[Message, ...]]) -> list[str]:
    """Answer in this process."""
    evaluate = config.evaluate
    return complete(subject_of(config, facts), requests, evaluate.max_new_tokens, evaluate.batch_size)


def subject_of(config: RunConfig, facts: ModelFacts) -> Subject:
    """Load a checkpoint for measuring, in its files' own rounding, on the GPU that this process was given if any."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    compute = compute_dtype(config.model.dtype, device)
    tokenizer = load_tokenizer(facts, config.model.chat_template)
    # On a CPU float32 is the fast path; on a GPU a measured model is held in the dtype it will be served in.
    held = compute if device.type == "cuda" else torch.float32
    return Subject.of(load_model(facts, held, device), tokenizer, compute=compute)


def count_of(measurement: Measurement) -> dict[str, Any]:
    """Return the few numbers of a measurement that a tracking server plots."""
    probes = {f"asr/{p.name}": p.asr.rate for p in measurement.asr_probes}
    return {
        "asr/clear": measurement.asr_clean.asr.rate,
        **probes,
        "over_refusal": measurement.over_refusal.rate,
        "exact_match": measurement.exact_match.rate,
        "anchor_nll": measurement.anchor_nll.mean,
    }
