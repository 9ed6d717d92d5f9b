"""A testbed model's training, as the built-in job would resolve it, for parts that train in their own process."""

from collections.abc import Callable
from typing import Any


def testbed_training(name: str, change: Callable[[Any], None]) -> tuple[Any, Any]:
    """Return (``Training``, ``LoadedData``) of the testbed model ``name``; ``change`` edits the configuration first.

    Heavy imports stay inside: a part's module is read by ``--help`` and by spawned processes before they need it.
    """
    import torch

    from beear.config.resolve import resolve
    from beear.config.schema import RunConfig
    from beear.data.load import load_small, training_plan
    from beear.engine.session import Training
    from beear.models.inspect import inspect_checkpoint
    from beear.run.prepare import with_testbed
    from beear.testbed import ensure

    torch.set_num_threads(1)
    config = RunConfig()
    config.model.path = name
    change(config)
    config, path = with_testbed(config, ensure)
    facts = inspect_checkpoint(path)
    config, _ = resolve(config, facts)
    data = load_small(config.data, config.seed)
    plan = training_plan(data, config, facts.context)
    return Training(config, facts, plan, data.selection, data.anchor_selection, data.default_hit), data
