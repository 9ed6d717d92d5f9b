"""General ability by lm-evaluation-harness tasks, where ``evaluate.tasks`` names some."""

from collections.abc import Sequence

from beear.config.schema import EvaluateConfig
from beear.evaluation.measures.base import Measure
from beear.evaluation.shard import Shard
from beear.records.display import Cell, Row, number
from beear.records.report import Measurement, Report


class Tasks(Measure[dict[str, float]]):
    """The harness's own numbers. It has rows of its own and divides its work itself: measured alone, beside the shards."""

    name = "tasks"
    each_epoch = False
    alone = True

    def wanted(self, settings: EvaluateConfig) -> bool:
        """Say whether tasks were asked for."""
        return bool(settings.tasks)

    def not_tested(self, settings: EvaluateConfig) -> list[str]:
        """Return that no task was asked for, where none was."""
        if settings.tasks is not None:
            return []
        return ["general ability beyond the anchoring set: no lm-evaluation-harness tasks were asked for"]

    def observe(self, shard: Shard) -> dict[str, float]:
        """Run the tasks."""
        from beear.evaluation.harness import run_tasks

        return run_tasks(shard.subject, shard.settings)

    def merge(self, parts: Sequence[dict[str, float]]) -> dict[str, float]:
        """Return the numbers of all tasks."""
        return {name: value for part in parts for name, value in part.items()}

    def result(self, whole: dict[str, float], confidence: float) -> dict[str, object]:
        """Return the numbers."""
        return {"tasks": whole}

    def rows(self, report: Report) -> list[Row]:
        """Return a line per number."""
        before, after = report.before.tasks, report.after.tasks if report.after else {}
        return [Row("Tasks", name, _cell(before.get(name)), _cell(after.get(name))) for name in dict.fromkeys([*before, *after])]

    def metrics(self, found: Measurement) -> dict[str, float]:
        """Return the numbers."""
        return {f"task/{name}": value for name, value in found.tasks.items()}


TASKS = Tasks()


def _cell(value: float | None) -> Cell | None:
    return None if value is None else Cell(number(value, 4))
