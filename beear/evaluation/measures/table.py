"""All measures, in the order in which they are measured and shown."""

from typing import Any

from beear.evaluation.measures.attack_success import ATTACK_SUCCESS
from beear.evaluation.measures.base import Measure, Recorded
from beear.evaluation.measures.over_refusal import OVER_REFUSAL
from beear.evaluation.measures.resistance import RESISTANCE
from beear.evaluation.measures.tasks import TASKS
from beear.evaluation.measures.utility import ANCHOR_NLL, EXACT_MATCH
from beear.extensions import Table
from beear.records.report import Report

MEASURES: Table[Measure[Any]] = Table(
    "beear.measures", Measure, [ATTACK_SUCCESS, OVER_REFUSAL, EXACT_MATCH, ANCHOR_NLL, RESISTANCE, TASKS]
)


def measures_of(report: Report) -> list[Measure[Any]]:
    """Return all measures, and those that are known from the report alone."""
    readings = (report.after.measures if report.after else {}) | report.before.measures
    return [*MEASURES.values(), *(Recorded(name, found) for name, found in readings.items() if name not in MEASURES)]
