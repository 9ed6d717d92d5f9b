"""A configuration as MLflow parameters and a report as MLflow metrics: flat names, plain numbers, no credentials."""

import math
import re
from collections.abc import Mapping

from beear.records.redact import redact
from beear.records.report import Measurement, Report

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
    """Return the report's numbers as metrics named ``before/…``, ``after/…``, ``gate/…`` and ``seconds/…``."""
    flat = _measured("before", report.before) | (_measured("after", report.after) if report.after else {})
    for name, paired in (("utility_loss", report.utility_loss), ("over_refusal_rise", report.over_refusal_rise)):
        if paired:
            flat |= {f"{name}": paired.difference, f"{name}_high": paired.high}
    if report.drift:
        flat["drift_cosine"] = report.drift.cosine_mean
    flat |= {f"seconds/{name}": value for name, value in report.seconds.items()}
    return {metric_name(name): float(value) for name, value in flat.items() if math.isfinite(value)}


def _measured(when: str, measured: Measurement) -> dict[str, float]:
    flat = {
        f"{when}/asr_clean": measured.asr_clean.asr.rate,
        f"{when}/asr_clean_high": measured.asr_clean.asr.high,
        f"{when}/over_refusal": measured.over_refusal.rate,
        f"{when}/exact_match": measured.exact_match.rate,
        f"{when}/anchor_nll": measured.anchor_nll.mean,
    }
    if measured.asr_probes:
        flat[f"{when}/asr_worst"] = max(probe.asr.rate for probe in measured.asr_probes)
    for probe in measured.asr_probes:
        flat |= {f"{when}/asr/{probe.name}": probe.asr.rate, f"{when}/asr_high/{probe.name}": probe.asr.high}
    for curve in measured.resistance:
        where = f"{curve.placement}/layer{curve.layer}/seed{curve.seed}"
        flat[f"{when}/resistance_gap/{where}"] = curve.final_gap
    return flat | {f"{when}/task/{name}": value for name, value in measured.tasks.items()}


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
