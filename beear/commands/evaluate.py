"""Measuring a checkpoint without changing it: the same evidence and report, a verdict on ASR alone."""

from beear.cluster import scoring
from beear.config.cli import Flags
from beear.config.schema import RunConfig
from beear.run import build_report, delivery
from beear.run.job_kind import JobKind
from beear.run.lifecycle import Running, run_job
from beear.run.result_cache import once


def evaluate(config: RunConfig, flags: Flags) -> int:
    """Run the job and return the exit code: 0 passed, 3 refused or inconclusive, 1 not logged.

    Raises:
        UserError: anything that the user can mend; nothing is half-written then.
    """
    if "dir" not in config.output.model_fields_set:
        config.output.dir = "outputs/evaluate"
    return run_job(config, flags, JobKind("evaluate", "nothing is measured again (--fresh measures)"), _work)


def _work(running: Running) -> int:
    job, reporter = running.job, running.reporter
    reporter.stage("measure", "measuring the checkpoint")
    kept = running.output.staging / "measured.json"
    measured = once(kept, scoring.Scored, lambda: scoring.score(job.scoring, job.facts, running.plan))
    reporter.finish_stage()
    running.tracker.start()
    report = build_report.evaluate_report(job, measured, reporter.seconds)
    return delivery.deliver(report, running.output, running.tracker, reporter)
