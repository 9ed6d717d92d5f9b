"""The main command, told in order: check, place, measure, train, measure the exported files, decide, deliver."""

from beear.cluster import scoring
from beear.cluster.connection import RaySession
from beear.cluster.events import Event, EventLog
from beear.cluster.scoring import Measured
from beear.cluster.training import train
from beear.config.cli import Flags
from beear.config.resolve import default_layer
from beear.config.schema import RunConfig
from beear.errors import Diverged
from beear.evaluation.measures.table import MEASURES
from beear.models.inspect import inspect_checkpoint
from beear.records.report import Drift, EpochRecord
from beear.registry.flatten import measured
from beear.run.build_report import trained_report
from beear.run.delivery import deliver
from beear.run.job_kind import JobKind
from beear.run.lifecycle import Running, run
from beear.run.output_folder import TRAINING
from beear.run.result_cache import once
from beear.run.stages import Scored, Trained

KIND = JobKind("sanitize", again="nothing is retrained (--fresh retrains)")
FAILED = 1


def sanitize(asked: RunConfig, flags: Flags, session: RaySession) -> int:
    """Run the command and return the exit code: 0 passed, 3 refused or inconclusive, 1 diverged or not registered.

    Raises:
        UserError: anything that the user can mend; nothing is half-written then.
    """
    return run(asked, flags, KIND, _work, session)


def _work(running: Running) -> int:
    try:
        scored = _scored(running, _trained(running))
    except Diverged as error:
        running.progress.say(f"error: {error}; the epochs before it are kept in {running.output.staging}")
        return FAILED
    return deliver(trained_report(scored, running.progress.seconds), running.output, running.tracker, running.progress)


def _trained(running: Running) -> Trained:
    """Measure the checkpoint as it came, then train and export it."""
    placed, progress, staging = running.placed, running.progress, running.output.staging
    checked, method = placed.checked, placed.checked.config.method
    progress.stage("before", "measuring the checkpoint as it came")
    before = once(staging / "before.json", Measured, lambda: scoring.score(placed.scoring, checked.facts, placed.reservation))
    running.tracker.start()
    running.tracker.log(measured("before", before.measurement, MEASURES.values()))
    progress.stage("train", f"training: {method.name}, {method.epochs} epochs at most")
    log = EventLog(staging / "events.jsonl")

    def take(event: Event) -> None:
        log.write(event)
        progress.event(event)
        if event["kind"] == "epoch":
            running.tracker.epoch(EpochRecord.model_validate(event["record"]))

    model = staging / "model"
    epochs = train(
        placed.worker_spec(),
        placed.reservation,
        staging / TRAINING,
        take,
        max_failures=checked.parallel.max_failures,
        export=model,
    )
    return Trained(placed, before, tuple(epochs), model)


def _scored(running: Running, trained: Trained) -> Scored:
    """Measure the exported files, reloaded from disk."""
    placed, staging, facts = trained.placed, running.output.staging, trained.placed.checked.facts
    running.progress.stage("after", "measuring the exported files, reloaded from disk")
    exported = inspect_checkpoint(str(trained.model))
    after = once(staging / "after.json", Measured, lambda: scoring.score(placed.scoring, exported, placed.reservation))
    layer = placed.checked.watched_layer or default_layer(facts.layers)
    drift = once(
        staging / "drift.json",
        Drift,
        lambda: scoring.drift(placed.scoring, facts, exported, layer, placed.reservation),
    )
    running.progress.finish_stage()
    return Scored(trained, after, drift)
