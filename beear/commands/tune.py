"""The search, told in order: check, measure the model before training, run the trials, choose, deliver, and apply if asked."""

import hashlib
import math
import os
import time
from dataclasses import replace
from functools import partial

from beear.cluster.connection import RaySession
from beear.commands.sanitize import sanitize
from beear.config.cli import Flags
from beear.config.schema import RunConfig
from beear.config.search import SearchConfig, TuneConfig
from beear.errors import UserError
from beear.evaluation import resistance_scale
from beear.evaluation.measures.utility import utility_of
from beear.evaluation.trials import ENDED, Yardstick
from beear.methods.configuration import resolved, run_config
from beear.records.search import Calibration, Trial
from beear.run.job_kind import JobKind
from beear.run.lifecycle import Running, run
from beear.run.output_folder import place_of
from beear.run.prepare import absolute
from beear.run.stages import Checked
from beear.search import delivery, experiment, outcome
from beear.search.baseline import baseline
from beear.search.live_table import LiveTable
from beear.search.monitor import LISTENING, Monitor, kept_trials
from beear.search.shared import Shared, with_settings
from beear.search.space import Space, family_of, load_space
from beear.search.strategy import settings_to_try

TRIALS = "trials.json"


def tune(asked: TuneConfig, flags: Flags, session: RaySession) -> int:
    """Run the search and return the exit code: 0 settings were chosen, 3 no trial kept within the gate's limits.

    With ``search.apply`` the main command follows with the chosen settings, and its exit code is returned.

    Raises:
        UserError: anything that the user can mend; nothing is half-written then.
    """
    main, settings = from_the_root(asked), asked.search
    kind = JobKind(
        "tune",
        again="nothing is tried again (--fresh tries)",
        record=delivery.RECORD,
        show=delivery.show_complete,
        refine=partial(checked, settings),
        worth=("checkpoint_*", TRIALS),
        together=min(settings.trials, settings.concurrent or settings.trials) if asked.parallel.workers == 1 else 1,
    )
    code = run(asked, flags, kind, lambda running: _work(running, settings, main), session)
    if code != delivery.CHOSEN or not settings.apply or flags.dry_run:
        return code
    chosen = delivery.chosen_config(place_of(asked.output.dir), main)
    return sanitize(chosen, Flags(verbose=flags.verbose), session)


def from_the_root(asked: TuneConfig) -> RunConfig:
    """Return the main command's part of the configuration, with files named from the root: best.yaml may move."""
    main = absolute(run_config().model_validate(asked.model_dump(exclude={"search"})))
    folders = {name: getattr(main.model, name) for name in ("path", "base", "reference")}
    named = {
        name: os.path.abspath(os.path.expanduser(value))
        for name, value in folders.items()
        if value and os.path.isdir(os.path.expanduser(value))
    }
    return main.model_copy(update={"model": main.model.model_copy(update=named)})


def checked(search: SearchConfig, job: Checked) -> Checked:
    """Return the run with an identity that counts what is searched and by what scale.

    Raises:
        UserError: the space, a setting in it, or the measure of trials is wrong.
    """
    space = space_of(search, job)
    listed = search.algorithm != "optuna"
    for settings in settings_to_try(space, search, job.config.seed) if listed else space.ends():
        resolved(with_settings(job.config.values, settings), job.facts)
    scale = scale_of(search, job)
    words = [job.identity, sorted(space.described().items()), scale.model_dump_json() if scale else ""]
    return replace(job, identity=hashlib.sha256(repr(words).encode()).hexdigest())


def space_of(search: SearchConfig, job: Checked) -> Space:
    """Return the search space, without lengths that the shortest prompt has no room for."""
    also = [part for part in (search.also or "").split("+") if part]
    space = load_space(search.space or family_of(job.facts.architecture), also, job.facts.layers)
    counted_from = job.config.values["method"].get("suffix_from", "prompt")
    room = job.room["user" if "method.suffix_from" in space.domains else counted_from]
    return space.at_most("method.length", room, f"the tokens of the shortest prompt ({job.data.shortest.origin})")


def scale_of(search: SearchConfig, job: Checked) -> resistance_scale.Scale | None:
    """Return the scale that bounds ASR, None where probes measure it.

    Raises:
        UserError: the scale cannot be used, or probes are asked for and none are given.
    """
    if uses_probes(search, bool(job.data.probes)):
        return None
    scale = resistance_scale.load()
    if lacking := scale.lacking():
        raise UserError(f"search.measure: {lacking}")
    return scale


def uses_probes(search: SearchConfig, given: bool) -> bool:
    """Say whether trials are measured under probes.

    Raises:
        UserError: they are asked for, and none are given.
    """
    if search.measure == "probes" and not given:
        raise UserError("search.measure is probes and no probes are given; expected data.probes.path, or resistance")
    return given and search.measure != "resistance"


def _work(running: Running, search: SearchConfig, asked: RunConfig) -> int:
    placed, staging, progress = running.placed, running.output.staging, running.progress
    job = placed.checked
    space, scale, calibration = space_of(search, job), scale_of(search, job), None
    for name, words in space.described().items():
        progress.note(f"{name}: {words}")
    if scale is not None:
        calibration = calibration_of(scale)
        progress.warn(calibration.sentence)
    shared = _shared(running, search, scale)
    concurrent = experiment.at_a_time(shared, search)
    path, nats = staging / TRIALS, utility_of(job.config.gate).in_nats
    running.tracker.start()
    count = f"{search.trials} trials" if search.trials > 1 else "1 trial"
    source = "ASR is measured under the probes" if scale is None else "ASR is bounded by entrapment resistance"
    progress.stage("trials", f"{count} of {space.family}, {concurrent} at a time; {source}")
    children, began = delivery.Children(running, staging), time.monotonic()
    with LiveTable(progress, kept_trials(path), nats) as screen:

        def told(trial: Trial, what: str) -> None:
            screen.told(trial, what)
            children.told(trial, what)

        LISTENING[str(path)] = told
        try:
            experiment.run_trials(shared, space, search, Monitor(path, job.config.method.epochs), job.config.seed, concurrent)
        finally:
            del LISTENING[str(path)]
    trials = kept_trials(path)
    if not any(trial.status in ENDED for trial in trials):
        # The same command tries all of them again.
        running.output.drop()
        return delivery.show_failed(trials, progress)
    asr, high = shared.yardstick.asr(shared.yardstick.baseline)
    as_it_came = {**shared.yardstick.baseline, "asr": asr, "asr_high": high}
    seconds = time.monotonic() - began
    report = outcome.search_report(placed, search, space, trials, as_it_came, calibration, concurrent, seconds)
    return delivery.deliver(report, asked, running)


def _shared(running: Running, search: SearchConfig, scale: resistance_scale.Scale | None) -> Shared:
    """Return what trials share, after measuring the model before training.

    Raises:
        UserError: a loss of utility would not be seen.
    """
    placed, progress = running.placed, running.progress
    job = placed.checked
    config = job.config
    yardstick = Yardstick(
        {},
        len(placed.data.selection[: config.evaluate.selection_rows]),
        config.gate,
        config.evaluate.confidence,
        search.stop_asr,
        scale.asr_at_most if scale else None,
        None if search.give_up is None else math.ceil(search.give_up * config.method.epochs),
    )
    shared = Shared(placed, yardstick, str(running.output.staging), scale is None)
    progress.stage("before", "measuring the model as it came, on selection rows")
    found = baseline(placed, shared.spec({}).training).selection
    shared = replace(shared, yardstick=replace(yardstick, baseline=found))
    if blind := shared.yardstick.blind():
        raise UserError(blind)
    return shared


def calibration_of(scale: resistance_scale.Scale) -> Calibration:
    """Return the record's entry on the scale."""
    return Calibration(
        points=len(scale.points),
        checkpoints=scale.checkpoints,
        error=scale.error.exceeding if scale.error else 1.0,
        sentence=scale.sentence(),
    )
