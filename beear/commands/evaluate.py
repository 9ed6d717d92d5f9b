"""Measuring a checkpoint without changing it: the same evidence and report, a verdict that judges no change."""

from beear.cluster import scoring
from beear.cluster.connection import RaySession
from beear.cluster.scoring import Measured
from beear.config.cli import Flags
from beear.config.schema import RunConfig
from beear.run.build_report import measured_report
from beear.run.delivery import deliver
from beear.run.job_kind import JobKind
from beear.run.lifecycle import Running, run
from beear.run.result_cache import once

KIND = JobKind("evaluate", trains=False, again="nothing is measured again (--fresh measures)")


def evaluate(asked: RunConfig, flags: Flags, session: RaySession) -> int:
    """Run the command and return the exit code: 0 passed, 3 refused or inconclusive, 1 not logged.

    Raises:
        UserError: anything that the user can mend; nothing is half-written then.
    """
    if "dir" not in asked.output.model_fields_set:
        asked = asked.model_copy(update={"output": asked.output.model_copy(update={"dir": "outputs/evaluate"})})
    return run(asked, flags, KIND, _work, session)


def _work(running: Running) -> int:
    placed, progress = running.placed, running.progress
    progress.stage("measure", "measuring the checkpoint")
    measured = once(
        running.output.staging / "measured.json",
        Measured,
        lambda: scoring.score(placed.scoring, placed.checked.facts, placed.reservation),
    )
    progress.finish_stage()
    running.tracker.start()
    return deliver(measured_report(placed, measured, progress.seconds), running.output, running.tracker, running.progress)
