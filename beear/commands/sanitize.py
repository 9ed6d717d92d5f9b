"""The main job, told in order: prepare, measure, train, measure the files, decide, write, register."""

from beear.cluster import scoring
from beear.cluster.events import Event, EventLog
from beear.cluster.training import Diverged, train
from beear.config.cli import Flags
from beear.config.schema import RunConfig
from beear.models.inspect import inspect_checkpoint
from beear.records.report import Drift, EpochRecord
from beear.run import build_report, delivery
from beear.run.job_kind import JobKind
from beear.run.lifecycle import Running, run_job
from beear.run.output_folder import TRAINING
from beear.run.result_cache import once

FAILED = 1


def sanitise(config: RunConfig, flags: Flags) -> int:
    """Run the job and return the exit code: 0 passed, 3 refused or inconclusive, 1 diverged or not registered.

    Raises:
        UserError: anything that the user can mend; nothing is half-written then.
    """
    return run_job(config, flags, JobKind("sanitize", "nothing is retrained (--fresh retrains)"), _unless_diverged)


def _unless_diverged(running: Running) -> int:
    try:
        return _work(running)
    except Diverged as error:
        running.reporter.say(f"error: {error}; the epochs before it are kept in {running.output.staging}")
        return FAILED


def _work(running: Running) -> int:
    job, output, reporter, tracker = running.job, running.output, running.reporter, running.tracker
    staging, log = output.staging, EventLog(output.staging / "events.jsonl")
    plan = running.plan
    reporter.stage("before", "measuring the checkpoint as it came")
    before = once(staging / "before.json", scoring.Scored, lambda: scoring.score(job.scoring, job.facts, plan))
    tracker.start()
    tracker.log({f"before/{name}": value for name, value in scoring.count_of(before.measurement).items()})

    epochs = job.config.method.epochs
    reporter.stage("train", f"training: {job.config.method.name}, {epochs} epochs at most")

    def sink(event: Event) -> None:
        log.write(event)
        reporter.event(event)
        if event["kind"] == "epoch":
            tracker.epoch(EpochRecord.model_validate(event["record"]))

    model = staging / "model"
    failures = job.config.parallel.max_failures
    history = train(job.worker_spec(), plan, staging / TRAINING, sink, max_failures=failures, export=model)

    reporter.stage("after", "measuring the exported files, reloaded from disk")
    exported = inspect_checkpoint(str(model))
    after = once(staging / "after.json", scoring.Scored, lambda: scoring.score(job.scoring, exported, plan))
    drift = once(staging / "drift.json", Drift, lambda: scoring.drift(job.scoring, job.facts, exported, plan))
    reporter.finish_stage()
    report = build_report.sanitize_report(job, before, after, drift, history, reporter.seconds)
    return delivery.deliver(report, output, tracker, reporter)
