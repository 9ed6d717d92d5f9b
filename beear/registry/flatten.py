"""A configuration as MLflow parameters and a report as MLflow metrics: flat names, plain numbers, no credentials."""

import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

from beear.evaluation.measures.base import Measure
from beear.evaluation.measures.table import measures_of
from beear.records.redact import redact
from beear.records.report import PAIRED_FIELDS, Measurement, Report

_UNNAMEABLE = re.compile(r"[^\w\-. :/]")
_LONGEST_PARAM = 500
_LONGEST_NAME = 250


def params_of(config: Mapping[str, object], prefix: str = "") -> dict[str, str]:
    """Return every leaf as text by its dotted name, cut to the length that MLflow takes."""
    flat: dict[str, str] = {}
    for key, value in config.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            flat |= params_of(value, f"{name}.")
        else:
            flat[name] = redact(str(value))[:_LONGEST_PARAM]
    return flat


def metric_name(name: str) -> str:
    """Return ``name`` with the characters MLflow refuses replaced."""
    return _UNNAMEABLE.sub("_", name).strip("/ ")[:_LONGEST_NAME] or "_"


def metrics_of(report: Report) -> dict[str, float]:
    """Return the report's numbers as metrics: before and after, paired changes with their upper bounds, drift, seconds."""
    measures = measures_of(report)
    flat = measured("before", report.before, measures)
    flat |= measured("after", report.after, measures) if report.after else {}
    changes = {name: getattr(report, name) for name in PAIRED_FIELDS}
    changes |= {f"change/{name}": paired for name, paired in report.changes.items()}
    for name, paired in changes.items():
        if paired:
            flat |= {name: paired.difference, f"{name}_high": paired.high}
    if report.drift:
        flat["drift_cosine"] = report.drift.cosine_mean
    flat |= {f"seconds/{name}": value for name, value in report.seconds.items()}
    return {metric_name(name): float(value) for name, value in flat.items() if math.isfinite(value)}


def measured(when: str, found: Measurement, measures: Iterable[Measure[Any]]) -> dict[str, float]:
    """Return a measurement's numbers, named ``before/…`` or ``after/…``."""
    return {f"{when}/{name}": value for one in measures for name, value in one.metrics(found).items()}


def version_tags(report: Report, identity: str, lineage: str) -> dict[str, str]:
    """Return the registered version's tags: verdict, identity, digests, source and lineage."""
    tags = {
        "verdict": report.gate.verdict,
        "identity": identity,
        "weights_before": report.before.weights_digest,
        "weights_after": report.after.weights_digest if report.after else report.before.weights_digest,
        "source": str(report.model.get("path", "")),
        "code_version": report.code_version,
        "lineage_run_id": lineage,
        "run": report.run_id,
    }
    for part, facts in (("model", report.model), ("template", report.template), ("data", report.data)):
        tags |= _digests(part, facts)
    return {key: redact(value)[:5000] for key, value in tags.items() if value}


def _digests(part: str, facts: dict[str, object]) -> dict[str, str]:
    """Return the digests a part of the report holds, as ``part.name``."""
    found = {}
    single, several = facts.get("digest"), facts.get("digests")
    if isinstance(single, str):
        found[f"{part}.digest"] = single
    if isinstance(several, dict):
        found |= {metric_name(f"{part}.{key}"): value for key, value in several.items() if isinstance(value, str)}
    return found
