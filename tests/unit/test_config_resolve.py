"""Defaults chosen from the model, against values worked out by hand, and settings a model cannot have."""

from itertools import pairwise
from typing import Any

import pytest

from beear.config.resolve import check_parallel, default_layer, default_outer_lr, resolve
from beear.config.schema import RunConfig
from beear.errors import UserError
from beear.models.facts import ModelFacts


def facts(layers: int = 6, context: int = 512, parameters: int = 1_400_000) -> ModelFacts:
    return ModelFacts("m", "LlamaForCausalLM", "llama", layers, 128, 1200, context, parameters, True, "float32")


# 32 layers: the paper's 9; 6 layers: what the studies on small models used.
@pytest.mark.parametrize(("layers", "layer"), [(2, 1), (3, 1), (6, 2), (16, 4), (28, 8), (32, 9), (80, 22)])
def test_the_layer_is_a_share_of_the_depth(layers: int, layer: int) -> None:
    assert default_layer(layers) == layer
    config, choices = resolve(RunConfig(), facts(layers))
    assert config.method.layer == layer
    assert config.evaluate.resistance.layers == str(layer)
    assert {"field": "method.layer", "value": layer, "why": f"0.28 of {layers} layers"} in choices


@pytest.mark.parametrize(
    ("parameters", "step"),
    [
        (1_400_000, 2e-4),
        (50_000_000, 2e-4),
        # the geometric middle of 50M and 1B has the geometric middle of 2e-4 and 2e-5
        (223_606_798, 6.3e-5),
        (1_000_000_000, 2e-5),
        (7_000_000_000, 2e-5),
        (8_366_600_265, 1.4e-5),
        (10_000_000_000, 1e-5),
        (70_000_000_000, 1e-5),
    ],
)
def test_the_outer_step_falls_with_size(parameters: int, step: float) -> None:
    assert default_outer_lr(parameters) == pytest.approx(step, rel=1e-9)
    assert default_outer_lr(parameters, lora=True) == pytest.approx(5 * step, rel=0.02)


def test_a_larger_model_never_gets_a_larger_step() -> None:
    steps = [default_outer_lr(int(10**power)) for power in [6 + i / 10 for i in range(60)]]
    assert all(left >= right for left, right in pairwise(steps))


@pytest.mark.parametrize(
    ("parameters", "workers", "rows"),
    [(50 * 10**6, 1, 32), (50 * 10**6 + 1, 1, 16), (10**9, 1, 16), (10**9 + 1, 1, 8), (10**6, 32, 32), (7 * 10**9, 8, 8)],
)
def test_the_batch_goes_by_size_whatever_the_workers(parameters: int, workers: int, rows: int) -> None:
    """It is part of a run's identity, and a run goes on with other workers."""
    config = RunConfig()
    config.parallel.workers = workers
    assert resolve(config, facts(parameters=parameters))[0].method.batch_size == rows


@pytest.mark.parametrize(
    ("parameters", "prompts"),
    [(10**6, 128), (10**9, 128), (10**9 + 1, 64), (8 * 10**9, 64), (13 * 10**9, 32), (70 * 10**9, 16)],
)
def test_fewer_prompts_stand_beside_larger_weights(parameters: int, prompts: int) -> None:
    assert resolve(RunConfig(), facts(parameters=parameters))[0].evaluate.batch_size == prompts


@pytest.mark.parametrize(("context", "longest"), [(512, 512), (1024, 1024), (131_072, 1024)])
def test_rows_fit_the_context(context: int, longest: int) -> None:
    assert resolve(RunConfig(), facts(context=context))[0].data.max_length == longest


def test_the_compute_type_goes_by_the_machine() -> None:
    assert resolve(RunConfig(), facts())[0].model.dtype == "auto", "the workers know their device, the driver may not"
    assert resolve(RunConfig(), facts(), gpu=False)[0].model.dtype == "float32"
    assert resolve(RunConfig(), facts(), gpu=True)[0].model.dtype == "bfloat16"


def test_what_was_asked_for_stands_and_the_given_configuration_is_left_alone() -> None:
    config = RunConfig()
    method = config.method
    method.layer, method.outer_lr, method.batch_size = 5, 1e-3, 4
    config.data.max_length, config.model.dtype, config.evaluate.resistance.layers = 100, "bfloat16", "1,5"
    config.evaluate.batch_size = 7
    before = config.model_copy(deep=True)
    assert resolve(config, facts(), gpu=False) == (before, [])
    unset = RunConfig()
    resolve(unset, facts())
    assert unset == RunConfig()


def test_resolving_twice_changes_nothing() -> None:
    once, choices = resolve(RunConfig(), facts(), gpu=False)
    assert [choice["field"] for choice in choices] == [
        "method.layer",
        "method.outer_lr",
        "method.batch_size",
        "data.max_length",
        "model.dtype",
        "evaluate.batch_size",
        "evaluate.resistance.layers",
    ]
    assert resolve(once, facts(), gpu=True) == (once, [])


@pytest.mark.parametrize(
    ("field", "value", "sentence"),
    [
        ("method.layer", 6, "method.layer is 6; expected 1 to 5 (the model has 6 decoder layers)"),
        (
            "evaluate.resistance.layers",
            "2, 9",
            "evaluate.resistance.layers is 9; expected 1 to 5 (the model has 6 decoder layers)",
        ),
        ("data.max_length", 513, "data.max_length is 513; expected 1 to 512 (the model's context in tokens)"),
        ("method.length", 600, "method.length is 600; expected 1 to 512 (data.max_length)"),
        ("evaluate.resistance.length", 600, "evaluate.resistance.length is 600; expected 1 to 512 (data.max_length)"),
        (
            "evaluate.max_new_tokens",
            512,
            "evaluate.max_new_tokens is 512; expected 1 to 511 (one token less than the model's context)",
        ),
    ],
)
def test_what_the_model_cannot_have_is_refused(field: str, value: object, sentence: str) -> None:
    config = RunConfig()
    *sections, last = field.split(".")
    place = config
    for section in sections:
        place = getattr(place, section)
    setattr(place, last, value)
    with pytest.raises(UserError) as caught:
        resolve(config, facts())
    assert str(caught.value) == sentence


def test_one_worker_is_all_that_single_has() -> None:
    config = RunConfig()
    config.parallel.backend, config.parallel.workers = "single", 2
    with pytest.raises(UserError, match="parallel.backend is single and parallel.workers 2; expected 1 worker, or ddp"):
        resolve(config, facts())


def test_more_workers_than_rows_are_refused() -> None:
    config = RunConfig()
    config.method.batch_size, config.parallel.workers = 2, 3
    with pytest.raises(UserError, match=r"parallel.workers is 3; expected 1 to 2 .*, or --method.batch_size 3$"):
        resolve(config, facts())
    config.method.batch_size, config.parallel.workers = None, 16
    with pytest.raises(UserError, match=r"parallel.workers is 16; expected 1 to 8 .*, or --method.batch_size 16$"):
        resolve(config, facts(parameters=7 * 10**9))


@pytest.mark.parametrize(("gpus", "settings", "sentence"), [
    (0, {"offload": True}, "parallel.offload is true and workers have no GPU; expected false, or workers with a GPU"),
    (0.5, {"workers": 2}, r"parallel.gpus_per_worker is 0.5 and .*workers 2; expected a whole GPU for each worker, since .*"),
    (0, {"engine": "vllm"}, "evaluate.engine is vllm and workers have no GPU; expected the engine torch, or workers with a GPU"),
])  # fmt: skip
def test_what_the_workers_devices_cannot_do_is_refused(gpus: float, settings: dict[str, Any], sentence: str) -> None:
    config = RunConfig()
    for name, value in settings.items():
        setattr(config.evaluate if name == "engine" else config.parallel, name, value)
    # Known once the cluster is, or from the configuration.
    check_parallel(config, None)
    check_parallel(config, 1.0)
    with pytest.raises(UserError, match=f"^{sentence}$"):
        check_parallel(config, gpus)
    config.parallel.gpus_per_worker = gpus
    with pytest.raises(UserError, match=f"^{sentence}$"):
        resolve(config, facts())


def test_one_worker_may_have_a_part_of_a_gpu() -> None:
    config = RunConfig()
    config.parallel.gpus_per_worker = 0.5
    assert resolve(config, facts())[0].parallel.gpus_per_worker == 0.5


def test_a_model_of_one_layer_has_none_to_perturb() -> None:
    with pytest.raises(UserError, match="has 1 decoder layer; expected at least 2"):
        resolve(RunConfig(), facts(layers=1))
