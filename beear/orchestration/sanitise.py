"""The main job, told in order: prepare, measure, train, measure the files, decide, write, register."""

from pathlib import Path

from beear.config.cli import Flags
from beear.config.schema import RunConfig
from beear.errors import UserError
from beear.models.inspect import inspect_checkpoint
from beear.orchestration import assemble, cluster, publish, scoring
from beear.orchestration.board import Event, EventLog
from beear.orchestration.console import Reporter
from beear.orchestration.dry_run import plan_text
from beear.orchestration.kept import once
from beear.orchestration.outputs import TRAINING, OutputFolder
from beear.orchestration.prepare import Job, prepare
from beear.orchestration.publish import Tracker
from beear.orchestration.training import Diverged, train
from beear.report.schema import Drift, EpochRecord

FAILED = 1


def sanitise(config: RunConfig, flags: Flags) -> int:
    """Run the job and return the exit code: 0 passed, 3 refused or inconclusive, 1 diverged or not registered.

    Raises:
        UserError: anything that the user can mend; nothing is half-written then.
    """
    with Reporter(config.method.epochs, flags.verbose) as reporter:
        reporter.stage("prepare", "checking the checkpoint, the data and the settings")
        job = prepare(config, "sanitize", reporter)
        if flags.dry_run:
            print(plan_text(job))
            return 0
        output = OutputFolder(Path(job.config.output.dir).absolute(), job.identity)
        if output.state(fresh=config.output.fresh) == "complete":
            reporter.say("this run is complete already; nothing is retrained (--fresh retrains)")
            return publish.show(output.target)
        lock = output.open(config.output.fresh)
        tracker: Tracker | None = None
        try:
            tracker = Tracker(job.tracking, job.config, job.identity, output.staging)
            return _work(job, output, reporter, tracker)
        except Diverged as error:
            reporter.say(f"error: {error}; the epochs before it are kept in {output.staging}")
            return FAILED
        except UserError:
            output.drop_if_untrained()
            raise
        finally:
            if tracker is not None:
                tracker.close()
            lock.close()


def _work(job: Job, output: OutputFolder, reporter: Reporter, tracker: Tracker) -> int:
    staging, log = output.staging, EventLog(output.staging / "events.jsonl")
    reporter.stage("connect", "starting Ray")
    cluster.connect(job.config.parallel, reporter.verbose)
    plan = cluster.plan_for(job.config.parallel)
    cluster.check_resources(plan)
    reporter.note(plan.sentence())
    job.fill_answers(plan)

    reporter.stage("before", "measuring the checkpoint as it came")
    before = once(staging / "before.json", scoring.Scored, lambda: scoring.score(job.scoring, job.facts, plan))
    tracker.log({f"before/{name}": value for name, value in scoring.count_of(before.measurement).items()})

    epochs = job.config.method.epochs
    reporter.stage("train", f"training: {job.config.method.name}, {epochs} epochs at most")

    def sink(event: Event) -> None:
        log.write(event)
        reporter.event(event)
        if event["kind"] == "epoch":
            tracker.epoch(EpochRecord.model_validate(event["record"]))

    trained = train(job.worker_spec(), plan, staging / TRAINING, staging / "model", sink)

    reporter.stage("after", "measuring the exported files, reloaded from disk")
    exported = inspect_checkpoint(str(trained.model))
    after = once(staging / "after.json", scoring.Scored, lambda: scoring.score(job.scoring, exported, plan))
    drift = once(staging / "drift.json", Drift, lambda: scoring.drift(job.scoring, job.facts, exported, plan))
    reporter.finish_stage()
    report = assemble.sanitize_report(job, before, after, drift, trained.history, reporter.seconds)
    return publish.deliver(job.config, report, output, tracker, reporter)
