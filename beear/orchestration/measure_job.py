"""Measuring a checkpoint without changing it: the same evidence and report, a verdict on ASR alone."""

from pathlib import Path

from beear.config.cli import Flags
from beear.config.schema import RunConfig
from beear.errors import UserError
from beear.orchestration import assemble, cluster, publish, scoring
from beear.orchestration.console import Reporter
from beear.orchestration.dry_run import plan_text
from beear.orchestration.kept import once
from beear.orchestration.outputs import OutputFolder
from beear.orchestration.prepare import Job, prepare
from beear.orchestration.publish import Tracker


def evaluate(config: RunConfig, flags: Flags) -> int:
    """Run the job and return the exit code: 0 passed, 3 refused or inconclusive, 1 not logged.

    Raises:
        UserError: anything that the user can mend; nothing is half-written then.
    """
    if "dir" not in config.output.model_fields_set:
        config.output.dir = "outputs/evaluate"
    with Reporter(verbose=flags.verbose) as reporter:
        reporter.stage("prepare", "checking the checkpoint, the data and the settings")
        job = prepare(config, "evaluate", reporter)
        if flags.dry_run:
            print(plan_text(job))
            return 0
        output = OutputFolder(Path(job.config.output.dir).absolute(), job.identity)
        if output.state(fresh=config.output.fresh) == "complete":
            reporter.say("this run is complete already; nothing is measured again (--fresh measures)")
            return publish.show(output.target)
        lock = output.open(config.output.fresh)
        tracker: Tracker | None = None
        try:
            tracker = Tracker(job.tracking, job.config, job.identity, output.staging)
            return _work(job, output, reporter, tracker)
        except UserError:
            output.drop_if_untrained()
            raise
        finally:
            if tracker is not None:
                tracker.close()
            lock.close()


def _work(job: Job, output: OutputFolder, reporter: Reporter, tracker: Tracker) -> int:
    reporter.stage("connect", "starting Ray")
    cluster.connect(job.config.parallel, reporter.verbose)
    plan = cluster.plan_for(job.config.parallel)
    cluster.check_resources(plan)
    job.fill_answers(plan)
    reporter.stage("measure", "measuring the checkpoint")
    kept = output.staging / "measured.json"
    measured = once(kept, scoring.Scored, lambda: scoring.score(job.scoring, job.facts, plan))
    reporter.finish_stage()
    report = assemble.evaluate_report(job, measured, reporter.seconds)
    return publish.deliver(job.config, report, output, tracker, reporter)
