"""Defaults that depend on the model, by a documented rule, and the checks that need its sizes. No torch, no ray.

=============================  =====================================================================================
field                          rule (L decoder layers, P parameters)
=============================  =====================================================================================
method.layer                   round(0.28 L), kept within 1..L-1: the paper perturbs layer 9 of 32
method.outer_lr                2e-4 up to 50M, 2e-5 from 1B to 7B, 1e-5 from 10B, straight in log-log between; x5 for
                               LoRA, whose factors need larger steps than whole weights
method.batch_size              32 up to 50M, 16 up to 1B, else 8; whatever the workers, for a run goes on
                               with others
data.max_length                1024 tokens, or the model's context where it is shorter
model.dtype                    bfloat16 on a GPU, else float32; left to the workers where the device is not known yet
evaluate.batch_size            128 up to 1B, 64 up to 8B, 32 up to 30B, else 16: what the weights leave room for on one
                               device, with keys and values of 1024 tokens a row
evaluate.resistance.layers     round(0.28 L), kept within 1..L-1, whatever method.layer is
=============================  =====================================================================================
"""

import math
from itertools import pairwise
from typing import Protocol, TypedDict

from beear.config.schema import RunConfig
from beear.errors import UserError

DEPTH_SHARE = 0.28
LONGEST = 1024
LORA_FACTOR = 5.0
# (parameters at most, rows)
BATCH_SIZE = ((50e6, 32), (1e9, 16), (math.inf, 8))
# (parameters at most, prompts)
PROMPTS = ((1e9, 128), (8e9, 64), (30e9, 32), (math.inf, 16))
# (parameters, step): between two points the logarithm of the step is linear in the logarithm of the parameters.
OUTER_LR = ((50e6, 2e-4), (1e9, 2e-5), (7e9, 2e-5), (10e9, 1e-5))


class Choice(TypedDict):
    """A default chosen from the model: the dotted field, the value and one clause that says why."""

    field: str
    value: object
    why: str


class Sizes(Protocol):
    """What the rules need to know of a model; ``beear.models.facts.ModelFacts`` has it."""

    @property
    def layers(self) -> int:
        """Decoder layers, L."""

    @property
    def context(self) -> int:
        """Longest input in tokens."""

    @property
    def parameters(self) -> int:
        """Elements in the weights."""


def resolve(config: RunConfig, facts: Sizes, gpu: bool | None = None) -> tuple[RunConfig, list[Choice]]:
    """Return a copy of ``config`` with every auto field that the model decides filled in, and what was chosen.

    Args:
        config: left as it is.
        facts: the model's sizes.
        gpu: whether the workers compute on a GPU that has bfloat16; None where that is not known yet, which leaves
            ``model.dtype`` at auto for each worker to settle by its own device.

    Raises:
        UserError: a setting that the model cannot have, such as a layer beyond its depth.
    """
    if facts.layers < 2:
        raise UserError(f"model.path: the model has {facts.layers} decoder layer; expected at least 2")
    config = config.model_copy(deep=True)
    choices = [*_method(config, facts), *_others(config, facts, gpu)]
    _check(config, facts)
    return config, choices


def default_layer(layers: int) -> int:
    """Return the layer l (1-based) whose output is perturbed in a model of L ``layers``."""
    return max(1, min(round(DEPTH_SHARE * layers), layers - 1))


def default_outer_lr(parameters: int, lora: bool = False) -> float:
    """Return the AdamW step for a model of this many parameters, to two significant digits."""
    size = min(max(float(parameters), OUTER_LR[0][0]), OUTER_LR[-1][0])
    (left, high), (right, low) = next(pair for pair in pairwise(OUTER_LR) if size <= pair[1][0])
    share = math.log(size / left) / math.log(right / left)
    return float(f"{high * (low / high) ** share * (LORA_FACTOR if lora else 1):.1e}")


def _method(config: RunConfig, facts: Sizes) -> list[Choice]:
    method, choices, size = config.method, [], f"{_count(facts.parameters)} parameters"
    if method.layer is None:
        method.layer = default_layer(facts.layers)
        choices.append(Choice(field="method.layer", value=method.layer, why=f"{DEPTH_SHARE} of {facts.layers} layers"))
    if method.outer_lr is None:
        lora = config.adapter.kind == "lora"
        method.outer_lr = default_outer_lr(facts.parameters, lora)
        why = size + (f", times {LORA_FACTOR:g} for LoRA" if lora else "")
        choices.append(Choice(field="method.outer_lr", value=method.outer_lr, why=why))
    if method.batch_size is None:
        method.batch_size = next(rows for most, rows in BATCH_SIZE if facts.parameters <= most)
        choices.append(Choice(field="method.batch_size", value=method.batch_size, why=size))
    return choices


def _others(config: RunConfig, facts: Sizes, gpu: bool | None) -> list[Choice]:
    data, model, resistance, choices = config.data, config.model, config.evaluate.resistance, []
    if data.max_length is None:
        data.max_length = min(LONGEST, facts.context)
        why = f"the model's context is {facts.context} tokens"
        choices.append(Choice(field="data.max_length", value=data.max_length, why=why))
    if model.dtype == "auto" and gpu is not None:
        model.dtype = "bfloat16" if gpu else "float32"
        why = "computing on a GPU" if gpu else "computing on CPUs"
        choices.append(Choice(field="model.dtype", value=model.dtype, why=why))
    if config.evaluate.batch_size is None:
        config.evaluate.batch_size = next(rows for most, rows in PROMPTS if facts.parameters <= most)
        why = f"{_count(facts.parameters)} parameters"
        choices.append(Choice(field="evaluate.batch_size", value=config.evaluate.batch_size, why=why))
    if resistance.layers == "auto":
        resistance.layers = str(default_layer(facts.layers))
        why = f"{DEPTH_SHARE} of {facts.layers} layers, whatever method.layer is"
        choices.append(Choice(field="evaluate.resistance.layers", value=resistance.layers, why=why))
    return choices


def check_parallel(config: RunConfig, gpus_per_worker: float | None) -> None:
    """Make sure that settings go together; ``gpus_per_worker`` is None where it is not known yet.

    Raises:
        UserError: two of them do not.
    """
    parallel = config.parallel
    if parallel.backend == "single" and parallel.workers > 1:
        raise UserError(
            f"parallel.backend is single and parallel.workers {parallel.workers}; expected 1 worker, or ddp, fsdp or deepspeed"
        )
    if parallel.offload and parallel.backend in ("single", "ddp"):
        raise UserError(f"parallel.offload is true and parallel.backend {parallel.backend}; expected fsdp or deepspeed")
    if gpus_per_worker is None:
        return
    if 0 < gpus_per_worker < 1 and parallel.workers > 1:
        raise UserError(
            f"parallel.gpus_per_worker is {gpus_per_worker:g} and parallel.workers {parallel.workers}; "
            "expected a whole GPU for each worker, since workers that train together cannot share one"
        )
    if not gpus_per_worker and parallel.offload:
        raise UserError("parallel.offload is true and workers have no GPU; expected false, or workers with a GPU")
    if not gpus_per_worker and config.evaluate.engine == "vllm":
        raise UserError("evaluate.engine is vllm and workers have no GPU; expected the engine torch, or workers with a GPU")


def _check(config: RunConfig, facts: Sizes) -> None:
    check_parallel(config, config.parallel.gpus_per_worker)
    method, longest, last = config.method, config.data.max_length, facts.layers - 1
    assert method.layer is not None and method.batch_size is not None and longest is not None
    depth = f"the model has {facts.layers} decoder layers"
    _within("method.layer", method.layer, last, depth)
    for layer in config.evaluate.resistance.layers.split(","):
        _within("evaluate.resistance.layers", int(layer), last, depth)
    _within("data.max_length", longest, facts.context, "the model's context in tokens")
    _within("method.length", method.length, longest, "data.max_length")
    _within("evaluate.resistance.length", config.evaluate.resistance.length, longest, "data.max_length")
    shorter = "one token less than the model's context"
    _within("evaluate.max_new_tokens", config.evaluate.max_new_tokens, facts.context - 1, shorter)
    if (workers := config.parallel.workers) > method.batch_size:
        raise UserError(
            f"parallel.workers is {workers}; expected 1 to {method.batch_size} (method.batch_size: each needs a row), "
            f"or --method.batch_size {workers}"
        )


def _within(name: str, value: int, limit: int, why: str) -> None:
    if not 1 <= value <= limit:
        raise UserError(f"{name} is {value}; expected 1 to {limit} ({why})")


def _count(parameters: int) -> str:
    for unit, size in (("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if parameters >= size:
            return f"{parameters / size:.3g}{unit}"
    return str(parameters)
