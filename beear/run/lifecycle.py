"""What every job does around its work: prepare, find what is there already, lock, track, and leave nothing half-done."""

from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

from beear.cluster import connection
from beear.config.cli import Flags
from beear.config.resolve import check_parallel
from beear.config.schema import RunConfig
from beear.errors import UserError
from beear.models.shape import model_shape
from beear.parallel.memory import MASTER
from beear.run import delivery
from beear.run.choose_backend import check_measuring, settle, settle_blind
from beear.run.delivery import Tracker
from beear.run.dry_run import plan_text
from beear.run.job_kind import JobKind
from beear.run.output_folder import OutputFolder, check_output, place_of
from beear.run.prepare import Job, prepare
from beear.run.progress import Reporter
from beear.testbed import ensure


@dataclass(frozen=True)
class Running:
    """A job under way: what it is, the cluster's share it has, where it writes, who hears of it."""

    job: Job
    plan: connection.Plan
    output: OutputFolder
    reporter: Reporter
    tracker: Tracker


def run_job(config: RunConfig, flags: Flags, kind: JobKind, work: Callable[[Running], int]) -> int:
    """Do ``work`` unless this run is complete already (then say so and show it); return the exit code.

    Raises:
        UserError: anything that the user can mend; nothing is half-written then.
    """
    with Reporter(config.method.epochs, flags.verbose) as reporter:
        reporter.stage("prepare", "checking the checkpoint, the data and the settings")
        config = _placed(config, reporter)
        # Whatever takes long, an implant or a download, comes after what may refuse at once.
        tracking = delivery.check_tracking(config)
        if flags.dry_run:
            print(plan_text(config, kind, reporter))
            return 0
        check_output(Path(config.output.dir))
        job = kind.check(prepare(config, kind.name, reporter, lambda name: ensure(name, say=reporter.note)))
        output = OutputFolder(Path(job.config.output.dir), job.identity, kind.record, kind.worth)
        state = output.state(fresh=config.output.fresh)
        if flags.resume and state == "new":
            raise UserError(
                f"--resume: nothing was begun for output.dir {output.target} with these settings; expected a cut-off run"
            )
        if state == "complete":
            reporter.say(f"this run is complete already; {kind.again}")
            return kind.show(output.target, tracking, reporter)
        with closing(output.open(config.output.fresh)):
            try:
                plan = _connect(job, reporter, kind.together)
                # The server is told the settings that the cluster left open, so it hears of the run after that.
                with closing(Tracker(tracking, job.config, job.identity, output.staging)) as tracker:
                    return work(Running(job, plan, output, reporter, tracker))
            except UserError:
                output.drop_if_untrained()
                raise


def _placed(config: RunConfig, reporter: Reporter) -> RunConfig:
    """Return a copy whose output folder is named from the root."""
    config = config.model_copy(deep=True)
    place = place_of(config.output.dir)
    if not Path(config.output.dir).is_absolute() and place != Path(config.output.dir).absolute():
        reporter.say(f"  note: output.dir is relative; a submitted job's results go to {place} on this node")
    config.output.dir = str(place)
    return config


def _connect(job: Job, reporter: Reporter, together: int) -> connection.Plan:
    """Join or start Ray, check that the plan fits, and fill in the answers that the data leaves out."""
    reporter.stage("connect", "starting Ray")
    connection.connect(job.config.parallel, reporter.verbose)
    plan = connection.plan_for(job.config.parallel)
    connection.await_room(plan, reporter.say)
    connection.check_resources(plan)
    reporter.note(plan.sentence())
    check_parallel(job.config, plan.gpus_per_worker)
    _settle(job, plan, reporter, together)
    job.fill_answers(plan)
    return plan


def _settle(job: Job, plan: connection.Plan, reporter: Reporter, together: int) -> None:
    """Fill in how weights are spread, now that it is known what computes, and refuse what no device there can measure."""
    parallel = job.config.parallel
    shape = model_shape(job.facts.weights_folder, job.config.adapter)
    # Several trainings share a node's memory as workers do, and on a CPU each keeps the checkpoint as it came beside its own.
    device = connection.device_of(parallel, replace(plan, workers=max(plan.workers, together)))
    if device and not device.gpu and together > 1:
        device = device.beside(MASTER * shape.parameters)
    if job.kind != "evaluate":
        settled = settle(job.config, shape, job.lengths, device) if device else settle_blind(job.config)
        job.config = settled.config
        job.choices += settled.choices
        for choice in settled.choices:
            reporter.note(f"{choice['field']} = {choice['value']}: {choice['why']}")
        _warn(settled.warning, reporter)
    # A CPU task that measures a large model is alone on its node.
    alone = device if device is None or device.gpu else connection.device_of(parallel, replace(plan, workers=1))
    if alone is not None:
        _warn(check_measuring(job.config, shape, job.lengths, alone), reporter)


def _warn(sentence: str, reporter: Reporter) -> None:
    if sentence:
        reporter.say(f"  note: {sentence}")
