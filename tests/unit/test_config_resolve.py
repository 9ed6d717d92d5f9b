"""Defaults chosen from the model, against values worked out by hand, and settings a model cannot have."""

from itertools import pairwise
from typing import Any

import pytest

from beear.config.resolve import check_parallel, default_layer, default_outer_lr
from beear.errors import UserError
from tests.configs import Sized, asked, resolved, resolving, value_at


# 32 layers: the paper's 9; 6 layers: what the studies on small models used.
@pytest.mark.parametrize(("layers", "layer"), [(2, 1), (3, 1), (6, 2), (16, 4), (28, 8), (32, 9), (80, 22)])
def test_the_layer_is_a_share_of_the_depth(layers: int, layer: int) -> None:
    assert default_layer(layers) == layer
    config, choices = resolving(sizes=Sized(layers))
    assert config.values["method"]["layer"] == layer
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
    assert resolved({"parallel.workers": workers}, Sized(parameters=parameters)).method.batch_size == rows


@pytest.mark.parametrize(
    ("parameters", "prompts"),
    [(10**6, 128), (10**9, 128), (10**9 + 1, 64), (8 * 10**9, 64), (13 * 10**9, 32), (70 * 10**9, 16)],
)
def test_fewer_prompts_stand_beside_larger_weights(parameters: int, prompts: int) -> None:
    assert resolved(sizes=Sized(parameters=parameters)).evaluate.batch_size == prompts


@pytest.mark.parametrize(("context", "longest"), [(512, 512), (1024, 1024), (131_072, 1024)])
def test_rows_fit_the_context(context: int, longest: int) -> None:
    assert resolved(sizes=Sized(context=context)).data.max_length == longest


def test_the_compute_type_is_left_to_the_workers() -> None:
    assert resolved().model.dtype == "auto", "the workers know their device, the driver may not"


GIVEN = {
    "method.layer": 5,
    "method.outer_lr": 1e-3,
    "method.batch_size": 4,
    "data.max_length": 100,
    "model.dtype": "bfloat16",
    "evaluate.resistance.layers": "1,5",
    "evaluate.batch_size": 7,
}


def test_what_was_asked_for_stands_and_nothing_is_chosen() -> None:
    config, choices = resolving(GIVEN)
    assert choices == []
    assert config.values == asked(GIVEN).model_dump(mode="json")
    assert {name: value_at(config.values, name) for name in GIVEN} == GIVEN


def test_what_is_chosen_is_said_and_resolving_it_again_changes_nothing() -> None:
    once, choices = resolving()
    assert [choice["field"] for choice in choices] == [
        "method.layer",
        "method.outer_lr",
        "method.batch_size",
        "data.max_length",
        "evaluate.batch_size",
        "evaluate.resistance.layers",
    ]
    again, none = resolving({choice["field"]: choice["value"] for choice in choices})
    assert (again, none) == (once, [])


def test_a_resolved_configuration_has_its_own_types_and_no_auto_field() -> None:
    config = resolved({"evaluate.resistance.layers": "3, 1"})
    assert config.settings.perturbed_layer == 2 and config.evaluate.resistance.at_layers == (3, 1)
    assert not hasattr(config, "parallel"), "how work is spread changes no number"
    with pytest.raises(ValueError, match="frozen"):
        config.method.epochs = 9


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
    with pytest.raises(UserError) as caught:
        resolved({field: value})
    assert str(caught.value) == sentence


def test_one_worker_is_all_that_single_has() -> None:
    with pytest.raises(UserError, match="parallel.backend is single and parallel.workers 2; expected 1 worker, or ddp"):
        resolved({"parallel.backend": "single", "parallel.workers": 2})


def test_more_workers_than_rows_are_refused() -> None:
    with pytest.raises(UserError, match=r"parallel.workers is 3; expected 1 to 2 .*, or --method.batch_size 3$"):
        resolved({"method.batch_size": 2, "parallel.workers": 3})
    with pytest.raises(UserError, match=r"parallel.workers is 16; expected 1 to 8 .*, or --method.batch_size 16$"):
        resolved({"parallel.workers": 16}, Sized(parameters=7 * 10**9))


@pytest.mark.parametrize(("gpus", "settings", "sentence"), [
    (0, {"parallel.offload": True}, "parallel.offload is true and .* no GPU; expected false, or workers with a GPU"),
    (0.5, {"parallel.workers": 2}, r"parallel.gpus_per_worker is 0.5 and .*workers 2; expected a whole GPU for each worker, .*"),
    (0, {"evaluate.engine": "vllm"}, "evaluate.engine is vllm and .* no GPU; expected the engine torch, or workers with a GPU"),
])  # fmt: skip
def test_what_the_workers_devices_cannot_do_is_refused(gpus: float, settings: dict[str, Any], sentence: str) -> None:
    config = asked(settings)
    # Known once the cluster is, or from the configuration.
    check_parallel(config.parallel, config.evaluate.engine, None)
    check_parallel(config.parallel, config.evaluate.engine, 1.0)
    with pytest.raises(UserError, match=f"^{sentence}$"):
        check_parallel(config.parallel, config.evaluate.engine, gpus)
    with pytest.raises(UserError, match=f"^{sentence}$"):
        resolved({**settings, "parallel.gpus_per_worker": gpus})


def test_one_worker_may_have_a_part_of_a_gpu() -> None:
    assert resolved({"parallel.gpus_per_worker": 0.5}).values["parallel"]["gpus_per_worker"] == 0.5


def test_a_model_of_one_layer_has_none_to_perturb() -> None:
    with pytest.raises(UserError, match="has 1 decoder layer; expected at least 2"):
        resolved(sizes=Sized(layers=1))
