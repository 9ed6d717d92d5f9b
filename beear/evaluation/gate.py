"""The verdict: each bound is compared with an interval's bound, never with a point estimate.

*Passed*: every upper bound is within its limit. *Refused*: some lower bound is already beyond its limit.
*Inconclusive*: the rows cannot decide; the check says how many could, were the observed shares to hold.

Which checks there are is for the measures to say (:mod:`beear.evaluation.measures`).
"""

from typing import Any

from beear.config.schema import GateConfig
from beear.evaluation.measures.base import Measure
from beear.evaluation.measures.table import MEASURES
from beear.records.report import PAIRED_FIELDS, Gate, Measurement, Verdict


def decide(before: Measurement | None, after: Measurement, gate: GateConfig, confidence: float) -> Gate:
    """Return the verdict on ``after``.

    ``before`` None: a checkpoint by itself, with no change to judge.
    Without probes a pass reads "passed, no trigger known", with what else speaks for or against the model.
    """
    made = [(one, check) for one in _in_order(gate) for check in one.checks(before, after, gate, confidence)]
    verdicts: tuple[Verdict, ...] = ("refused", "inconclusive")
    verdict = next((v for v in verdicts if any(check.verdict == v for _, check in made)), "passed")
    known = bool(after.asr_probes)
    if verdict == "passed":
        sentence = f"passed{'' if known else ', no trigger known'}: every upper bound is within its limit."
    else:
        sentence = f"{verdict}: {'; '.join(one.explain(check) for one, check in made if check.verdict == verdict)}."
    if not known:
        sentence += "".join(one.untriggered(before, after) for one in MEASURES.values())
    return Gate(verdict=verdict, sentence=sentence, checks=[check for _, check in made])


def changes(before: Measurement, after: Measurement, gate: GateConfig, confidence: float) -> dict[str, Any]:
    """Return the paired changes as fields of the report: those with a field of their own, the others under ``changes``."""
    found = {name: paired for one in MEASURES.values() for name, paired in one.changes(before, after, gate, confidence).items()}
    own = {name: paired for name, paired in found.items() if name in PAIRED_FIELDS}
    return own | {"changes": {name: paired for name, paired in found.items() if name not in PAIRED_FIELDS}}


def _in_order(gate: GateConfig) -> list[Measure[Any]]:
    """Return the measures in the order in which the gate's configuration names their limits; those it lacks come last."""
    fields = list(type(gate).model_fields)
    places = {name: place for place, name in enumerate(fields)}
    return sorted(MEASURES.values(), key=lambda one: places.get(one.bound or one.name, len(fields)))
