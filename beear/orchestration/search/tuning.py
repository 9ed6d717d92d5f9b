"""The driver's side of Ray Tune: one experiment in the run's own folder, begun or taken up again."""

import json
import logging
import os
import shutil
from pathlib import Path

from ray import tune

from beear.config.search import SearchConfig
from beear.config.space import Space
from beear.errors import UserError
from beear.orchestration import growth
from beear.orchestration.beside import run_beside
from beear.orchestration.cluster import Plan
from beear.orchestration.search import plans
from beear.orchestration.search.shared import Shared
from beear.orchestration.search.trial import ColdTrial, WarmTrial
from beear.orchestration.search.watch import Watch

EXPERIMENT, PROCESSES = "trials", "processes"
# What a trial that only starts a Ray Train run holds itself; Tune refuses none at all.
LITTLE = 0.01


def run_trials(shared: Shared, space: Space, search: SearchConfig, watch: Watch, seed: int) -> None:
    """Run all trials of the search, or those that an interrupted one has left; their records are the watch's.

    Raises:
        UserError: the interrupted one ran its trials in another kind of process.
    """
    # Tune would write each result to three kinds of file of its own.
    os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
    os.environ.setdefault("TUNE_DISABLE_SIGINT_HANDLER", "1")
    # What a killed driver is taken up from must not be older than the checkpoints that are there.
    os.environ.setdefault("TUNE_GLOBAL_CHECKPOINT_S", "1")
    logging.getLogger("ray.tune").setLevel(logging.ERROR)
    warm = is_warm(search, shared.plan)
    trainable = tune.with_resources(
        tune.with_parameters(WarmTrial if warm else ColdTrial, shared=shared), resources_of(shared.plan, warm)
    )
    tuner = _tuner(trainable, shared, space, search, watch, seed, warm)
    run_beside(tuner.fit)


def is_warm(search: SearchConfig, plan: Plan) -> bool:
    """Say whether trials share processes: those of several workers are Ray Train runs."""
    return search.warm and plan.workers == 1


def resources_of(plan: Plan, warm: bool) -> tune.PlacementGroupFactory:
    """Return what Tune holds for a trial."""
    return tune.PlacementGroupFactory([plan.share if warm else {"CPU": LITTLE}])


def at_a_time(search: SearchConfig, plan: Plan, warm: bool) -> int:
    """Return how many trials the cluster has room for at once, or as many as were asked for."""
    there = growth.possible()
    cpus, gpus = (plan.cpus_per_worker, plan.gpus_per_worker) if warm else (plan.cpus + LITTLE, plan.gpus)
    rooms = [there.get("CPU", 1.0) / cpus, *([there.get("GPU", 0.0) / gpus] if gpus else [])]
    room = max(1, int(min(rooms) + 1e-9))
    return min(room, search.concurrent or room, search.trials)


def _tuner(
    trainable: object, shared: Shared, space: Space, search: SearchConfig, watch: Watch, seed: int, warm: bool
) -> tune.Tuner:
    storage = Path(shared.folder)
    path, concurrent = storage / EXPERIMENT, at_a_time(search, shared.plan, warm)
    space_of_trials = plans.param_space(space, search, seed)
    if _begun(storage, warm):
        return tune.Tuner.restore(str(path), trainable, resume_unfinished=True, param_space=space_of_trials)  # type: ignore[arg-type]
    shutil.rmtree(path, ignore_errors=True)
    (storage / PROCESSES).write_text(_words(warm))
    return tune.Tuner(
        trainable,  # type: ignore[arg-type]
        param_space=space_of_trials,
        tune_config=tune.TuneConfig(
            search_alg=plans.algorithm(search, seed, concurrent),
            scheduler=plans.scheduler(search, shared.job.config.method.epochs),
            num_samples=plans.samples(search),
            max_concurrent_trials=concurrent if search.algorithm == "optuna" else None,
            reuse_actors=warm,
        ),
        run_config=tune.RunConfig(
            name=EXPERIMENT,
            storage_path=str(storage),
            callbacks=[watch],
            failure_config=tune.FailureConfig(max_failures=search.max_failures),
            checkpoint_config=tune.CheckpointConfig(num_to_keep=2, checkpoint_frequency=1),
            verbose=0,
        ),
    )


def _begun(storage: Path, warm: bool) -> bool:
    """Say whether there is an experiment to take up: Tune itself would begin one without settings where its state is broken.

    Raises:
        UserError: its trials ran in another kind of process.
    """
    states = sorted((storage / EXPERIMENT).glob("experiment_state-*.json"))
    if not states or not _readable(states[-1]) or not tune.Tuner.can_restore(str(storage / EXPERIMENT)):
        return False
    kept = storage / PROCESSES
    if kept.exists() and kept.read_text() != _words(warm):
        raise UserError(
            f"search.warm: this search began with {kept.read_text()} and would go on with {_words(warm)}; "
            "expected the same search.warm and as many parallel.workers, or --fresh"
        )
    return True


def _readable(path: Path) -> bool:
    try:
        return bool(json.loads(path.read_text()))
    except (OSError, ValueError):
        return False


def _words(warm: bool) -> str:
    return "trials that share processes" if warm else "trials that are Ray Train runs"
