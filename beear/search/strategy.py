"""A search's strategy in Ray Tune's terms: which settings are tried, in what order, and what stops a trial early."""

import random
from collections.abc import Sequence
from typing import Any

from ray import tune
from ray.tune.schedulers import FIFOScheduler, MedianStoppingRule, TrialScheduler
from ray.tune.search import BasicVariantGenerator, SearchAlgorithm, Searcher

from beear.config.search import SearchConfig
from beear.search.asha import Asha
from beear.search.space import Between, OneOf, Space
from beear.search.trial import EPOCH, OBJECTIVE, SETTINGS


def settings_to_try(space: Space, search: SearchConfig, seed: int) -> list[dict[str, Any]]:
    """Return the settings of a random or grid search: the same for the same seed, none twice.

    Raises:
        UserError: a grid over a field that takes any number between two.
    """
    if search.algorithm == "grid":
        whole = space.grid()
        # Where there are more settings than trials, take them evenly: the first trials alone would hardly vary the first field.
        count = min(search.trials, len(whole))
        return [whole[place * len(whole) // count] for place in range(count)]
    draw, found = random.Random(seed), list[dict[str, Any]]()
    size = space.size()
    wanted = search.trials if size is None else min(search.trials, size)
    # A small space is listed whole, so that drawing without repeats ends.
    if size is not None and size <= 100 * wanted:
        return draw.sample(space.grid(), wanted)
    while len(found) < wanted:
        drawn = space.sample(draw)
        if drawn not in found:
            found.append(drawn)
    return found


def wanted(space: Space, search: SearchConfig, seed: int) -> int:
    """Return the number of trials."""
    return search.trials if search.algorithm == "optuna" else len(settings_to_try(space, search, seed))


def param_space(space: Space, search: SearchConfig, seed: int, done: Sequence[dict[str, Any]] = ()) -> dict[str, Any]:
    """Return what Tune draws trials' configurations from; settings that are ``done`` are left out of a list."""
    if search.algorithm == "optuna":
        return {name: _domain(domain) for name, domain in space.domains.items()}
    return {SETTINGS: tune.grid_search([one for one in settings_to_try(space, search, seed) if one not in done])}


def samples(search: SearchConfig, done: int = 0) -> int:
    """Return how often Tune draws: once from a list of settings, else once for each trial that is left."""
    return search.trials - done if search.algorithm == "optuna" else 1


def algorithm(search: SearchConfig, seed: int, concurrent: int) -> Searcher | SearchAlgorithm:
    """Return what picks settings. ``concurrent`` trials run at a time; Tune's own limit does not apply to a list of settings."""
    if search.algorithm == "optuna":
        from optuna.samplers import TPESampler
        from ray.tune.search.optuna import OptunaSearch

        return OptunaSearch(metric=OBJECTIVE, mode="min", sampler=TPESampler(seed=seed))
    return BasicVariantGenerator(random_state=seed, max_concurrent=concurrent)


def scheduler(search: SearchConfig, epochs: int) -> TrialScheduler:
    """Return what stops trials early. It goes by our own epochs, since Tune's iteration restarts from 1 after a restart."""
    if search.scheduler == "asha":
        return Asha(
            time_attr=EPOCH,
            metric=OBJECTIVE,
            mode="min",
            max_t=max(epochs, 1),
            grace_period=min(search.grace_epochs, max(epochs, 1)),
            reduction_factor=search.reduction,
        )
    if search.scheduler == "median":
        # Until it has this many samples it pauses trials instead of letting them run.
        return MedianStoppingRule(
            time_attr=EPOCH,
            metric=OBJECTIVE,
            mode="min",
            grace_period=search.grace_epochs,
            min_samples_required=1,
            hard_stop=True,
        )
    return FIFOScheduler()


def _domain(domain: OneOf | Between) -> Any:
    if isinstance(domain, OneOf):
        return tune.choice(list(domain.options))
    if domain.whole:
        low, high = int(domain.low), int(domain.high) + 1
        return tune.lograndint(low, high) if domain.log else tune.randint(low, high)
    return tune.loguniform(domain.low, domain.high) if domain.log else tune.uniform(domain.low, domain.high)
