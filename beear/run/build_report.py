"""Builds the report from what the stages found. No maths: the gate and the statistics belong to evaluation."""

import platform
import time
from typing import Any

import ray
import torch
import transformers

from beear.cluster.scoring import Measured
from beear.evaluation import gate
from beear.evaluation.measures.table import MEASURES
from beear.records.report import EpochRecord, Gate, Report
from beear.run.identity import code_version
from beear.run.stages import Checked, Placed, Scored

PASSED, UNDECIDED = 0, 3

NOT_TESTED = (
    "triggers and placements other than those listed: reduced measured ASR is not proof that no backdoor is left",
    "unwanted behaviours that the defense set does not show",
    "requests in languages, lengths and conversation depths that the report rows do not cover",
    "sampling at a temperature above zero: every completion is greedy",
)


def trained_report(scored: Scored, seconds: dict[str, float]) -> Report:
    """Return the report of a sanitised model, with the gate's verdict; ``seconds``: wall time by stage."""
    trained, placed = scored.trained, scored.trained.placed
    config, history = placed.checked.config, list(scored.trained.epochs)
    confidence = config.evaluate.confidence
    before, after = trained.before.measurement, scored.after.measurement
    verdict = gate.decide(before, after, config.gate, confidence)
    return Report(
        **_common(placed, verdict, seconds, [*trained.before.notes, *scored.after.notes, *told_once(history)]),
        before=before,
        after=after,
        **gate.changes(before, after, config.gate, confidence),
        drift=scored.drift,
        epochs=history,
    )


def told_once(history: list[EpochRecord]) -> list[str]:
    """Return the epochs' notes, each once: a resumed run finds some again, with other figures in brackets."""
    found: dict[str, str] = {}
    for note in (note for epoch in history for note in epoch.notes):
        found.setdefault(note.partition(" (")[0], note)
    return list(found.values())


def measured_report(placed: Placed, measured: Measured, seconds: dict[str, float]) -> Report:
    """Return the report of a checkpoint that was measured and not changed; no change is judged."""
    config = placed.checked.config
    verdict = gate.decide(None, measured.measurement, config.gate, config.evaluate.confidence)
    return Report(**_common(placed, verdict, seconds, measured.notes), before=measured.measurement)


def _common(placed: Placed, verdict: Gate, seconds: dict[str, float], notes: list[str]) -> dict[str, Any]:
    checked = placed.checked
    return {
        **origin(placed),
        "kind": checked.kind,
        "conversions": list(checked.facts.conversions),
        "template": checked.template,
        "data": placed.data.summary(),
        "choices": placed.choices,
        "gate": verdict,
        "exit_code": PASSED if verdict.verdict == "passed" else UNDECIDED,
        "not_tested": _not_tested(placed),
        "notes": [*_notes(checked), *dict.fromkeys(notes)],
        "seconds": {**seconds, "total": round(sum(seconds.values()), 1)},
    }


def origin(placed: Placed) -> dict[str, Any]:
    """Return what every record says of where it comes from: run, time, code, machine, model and configuration."""
    facts = placed.checked.facts
    return {
        "run_id": placed.checked.identity,
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "code_version": code_version(),
        "machine": machine(),
        "model": {
            "path": placed.checked.asked.model.path,
            "base": facts.base,
            "architecture": facts.architecture,
            "layers": facts.layers,
            "hidden_size": facts.hidden_size,
            "parameters": facts.parameters,
            "context": facts.context,
            "tied_embeddings": facts.tied,
            "dtype": facts.source_dtype,
            "digests": facts.digests,
        },
        "config": placed.values,
    }


def _not_tested(placed: Placed) -> list[str]:
    found = list(NOT_TESTED)
    evaluate = placed.checked.config.evaluate
    if not placed.data.probes:
        found.insert(0, "any known trigger: no probes were given")
    return [*found, *(clause for one in MEASURES.values() for clause in one.not_tested(evaluate))]


def _notes(checked: Checked) -> list[str]:
    notes = [*checked.data.notes, *checked.facts.notes]
    if checked.trains and checked.data.probes:
        notes.append("Probes were measured on selection rows after each epoch for the record; nothing was decided by them.")
        if checked.config.data.probes.chose_settings:
            notes[-1] = "A search chose this run's settings by these probes: ASR under them is no blind test."
    return notes


def machine() -> dict[str, str]:
    """Return the machine and the versions that the figures were made with."""
    there = ray.cluster_resources() if ray.is_initialized() else {}
    return {
        "platform": platform.platform(),
        "processor": platform.machine(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "ray": ray.__version__,
        "cluster_cpus": f"{there.get('CPU', 0):g}",
        "cluster_gpus": f"{there.get('GPU', 0):g}",
    }
