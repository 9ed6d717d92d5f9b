"""A testbed model's training, as the main command resolves it, for parts that train in their own process."""

from collections.abc import Mapping
from typing import Any


def testbed_training(name: str, values: Mapping[str, Any] | None = None) -> tuple[Any, Any]:
    """Return (``Training``, ``LoadedData``) of the testbed model ``name``, with other ``values`` by dotted name.

    Heavy imports stay inside: ``--help`` and spawned processes read a part's module before they need them.
    """
    import torch

    from beear.config.build import build
    from beear.data.load import load_small, training_plan
    from beear.engine.session import Training
    from beear.methods.configuration import resolved, run_config
    from beear.methods.table import METHODS
    from beear.models.inspect import inspect_checkpoint
    from beear.parallel.spread import Spread
    from beear.run.prepare import with_testbed
    from beear.testbed import ensure

    torch.set_num_threads(1)
    asked, path = with_testbed(build(run_config(), {"model.path": name, **(values or {})}, {}), ensure)
    facts = inspect_checkpoint(path)
    config, _ = resolved(asked, facts)
    data = load_small(config.data, config.seed)
    needs = METHODS[config.method.name].needs(config.settings)
    plan = training_plan(data, config, needs.inner_batches, facts.context)
    training = Training(config, facts, plan, Spread("single"), data.selection, data.anchor_selection, data.default_hit)
    return training, data
