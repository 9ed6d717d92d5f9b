"""The driver's side of Ray Tune: one experiment in the run's staging folder, started or resumed."""

import json
import logging
import os
import shutil
from pathlib import Path
from typing import Any

from ray import tune

from beear.cluster import autoscaling
from beear.cluster.capacity import Reservation
from beear.cluster.run_in_thread import run_in_thread
from beear.config.search import SearchConfig
from beear.errors import UserError
from beear.files import write_text
from beear.search import strategy, tune_state
from beear.search.monitor import Monitor
from beear.search.shared import Shared, run_folder
from beear.search.space import Space
from beear.search.trial import InProcessRun, RayTrainRun

EXPERIMENT, PROCESSES = "trials", "processes.json"
# CPUs of a trial that only starts a Ray Train run; Tune refuses 0.
LITTLE = 0.01


def run_trials(shared: Shared, space: Space, search: SearchConfig, watch: Monitor, seed: int, concurrent: int) -> None:
    """Run all trials of the search, ``concurrent`` at a time, or those that an interrupted search has left.

    The monitor keeps their records.

    Raises:
        UserError: the interrupted search ran its trials in another kind of process.
    """
    # Without this Tune writes each result to three more files.
    os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
    os.environ.setdefault("TUNE_DISABLE_SIGINT_HANDLER", "1")
    # The state that a killed driver resumes from must not be older than the checkpoints.
    os.environ.setdefault("TUNE_GLOBAL_CHECKPOINT_S", "1")
    logging.getLogger("ray.tune").setLevel(logging.ERROR)
    warm = shares_processes(shared, search)
    trainable = tune.with_resources(
        tune.with_parameters(InProcessRun if warm else RayTrainRun, shared=shared), resources_of(shared.placed.reservation, warm)
    )
    storage = Path(shared.folder)
    if _begun(storage):
        tuner = _taken_up(trainable, storage, space, search, seed, warm)
    else:
        done = watch.forget_unfinished()
        for left in (storage / EXPERIMENT, run_folder(storage)):
            shutil.rmtree(left, ignore_errors=True)
        write_text(storage / PROCESSES, json.dumps({"kind": _words(warm), "concurrent": concurrent}))
        if len(done) >= strategy.wanted(space, search, seed):
            return
        tuner = _new(trainable, shared, space, search, watch, seed, concurrent, done, warm)
    run_in_thread(tuner.fit)


def shares_processes(shared: Shared, search: SearchConfig) -> bool:
    """Say whether trials share processes. Trials of several workers, or of spread weights, are Ray Train runs."""
    return (
        search.warm
        and shared.placed.reservation.workers == 1
        and shared.placed.spread is not None
        and shared.placed.spread.backend == "single"
    )


def resources_of(reservation: Reservation, warm: bool) -> tune.PlacementGroupFactory:
    """Return what Tune reserves for a trial."""
    return tune.PlacementGroupFactory([reservation.share if warm else {"CPU": LITTLE}])


def at_a_time(shared: Shared, search: SearchConfig) -> int:
    """Return how many trials run at a time: as many as asked for and as the cluster has room for; a resume keeps the number."""
    if _begun(storage := Path(shared.folder)):
        return int(json.loads((storage / PROCESSES).read_text())["concurrent"])
    there, reservation, warm = autoscaling.possible(), shared.placed.reservation, shares_processes(shared, search)
    cpus, gpus = (
        (reservation.cpus_per_worker, reservation.gpus_per_worker) if warm else (reservation.cpus + LITTLE, reservation.gpus)
    )
    rooms = [there.get("CPU", 1.0) / cpus, *([there.get("GPU", 0.0) / gpus] if gpus else [])]
    room = max(1, int(min(rooms) + 1e-9))
    return min(room, search.concurrent or room, search.trials)


def _new(
    trainable: object,
    shared: Shared,
    space: Space,
    search: SearchConfig,
    watch: Monitor,
    seed: int,
    concurrent: int,
    done: list[dict[str, Any]],
    warm: bool,
) -> tune.Tuner:
    """Return an experiment of all settings except those that are ``done``."""
    return tune.Tuner(
        trainable,  # type: ignore[arg-type]
        param_space=strategy.param_space(space, search, seed, done),
        tune_config=tune.TuneConfig(
            search_alg=strategy.algorithm(search, seed, concurrent),
            scheduler=strategy.scheduler(search, shared.placed.checked.config.method.epochs),
            num_samples=strategy.samples(search, len(done)),
            max_concurrent_trials=concurrent if search.algorithm == "optuna" else None,
            reuse_actors=warm,
        ),
        run_config=tune.RunConfig(
            name=EXPERIMENT,
            storage_path=shared.folder,
            callbacks=[watch],
            failure_config=tune.FailureConfig(max_failures=search.max_failures),
            checkpoint_config=tune.CheckpointConfig(num_to_keep=2, checkpoint_frequency=1),
            verbose=0,
        ),
    )


def _taken_up(trainable: object, storage: Path, space: Space, search: SearchConfig, seed: int, warm: bool) -> tune.Tuner:
    """Return the interrupted experiment.

    Raises:
        UserError: its trials ran in another kind of process.
    """
    began = json.loads((storage / PROCESSES).read_text())["kind"]
    if began != _words(warm):
        raise UserError(
            f"search.warm: this search began with {began} and would go on with {_words(warm)}; "
            "expected the same search.warm and as many parallel.workers, or --fresh"
        )
    space_of_trials = strategy.param_space(space, search, seed)
    return tune.Tuner.restore(
        str(storage / EXPERIMENT),
        trainable,  # type: ignore[arg-type]
        resume_unfinished=True,
        param_space=space_of_trials,
    )


def _begun(storage: Path) -> bool:
    """Say whether there is an experiment to resume."""
    return (storage / PROCESSES).exists() and tune_state.whole(storage / EXPERIMENT)


def _words(warm: bool) -> str:
    return "trials that share processes" if warm else "trials that are Ray Train runs"
