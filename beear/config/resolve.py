"""Fills in the defaults that depend on the model, and checks settings against its sizes. Imports neither torch nor ray.

=============================  =====================================================================================
field                          rule (L decoder layers, P parameters)
=============================  =====================================================================================
method.outer_lr                2e-4 up to 50M, 2e-5 from 1B to 7B, 1e-5 from 10B, log-log linear in between; times 5
                               for LoRA, whose factors need larger steps than whole weights
method.batch_size              32 up to 50M, 16 up to 1B, else 8; independent of the number of workers, so that a
                               run can resume with another number
data.max_length                1024 tokens, or the model's context where it is shorter
evaluate.batch_size            128 up to 1B, 64 up to 8B, 32 up to 30B, else 16: what fits on one device beside the
                               weights, with keys and values of 1024 tokens a row
evaluate.resistance.layers     round(0.28 L), kept within 1..L-1; independent of method.layer
=============================  =====================================================================================

A method resolves its own fields: ``method.layer`` is round(0.28 L), kept within 1..L-1, since the paper perturbs layer 9 of
32. How weights are spread (``parallel.*``) is decided later, when the devices are known (:mod:`beear.run.choose_backend`).
``model.dtype`` stays as asked: each worker decides ``auto`` by its own device (bfloat16 on a GPU that supports it, else
float32).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Protocol, TypedDict, TypeVar

from beear.config.schema import (
    AdapterConfig,
    DataConfig,
    EvaluateConfig,
    GateConfig,
    MethodConfig,
    ModelConfig,
    OutputConfig,
    ParallelConfig,
    ResistanceConfig,
    RunConfig,
    Section,
    TrackingConfig,
)
from beear.errors import UserError

DEPTH_SHARE = 0.28
LONGEST = 1024
LORA_FACTOR = 5.0
# (most parameters, rows)
BATCH_SIZE = ((50e6, 32), (1e9, 16), (math.inf, 8))
# (most parameters, prompts)
PROMPTS = ((1e9, 128), (8e9, 64), (30e9, 32), (math.inf, 16))
# (parameters, learning rate): between two points, log(learning rate) is linear in log(parameters).
OUTER_LR = ((50e6, 2e-4), (1e9, 2e-5), (7e9, 2e-5), (10e9, 1e-5))

S = TypeVar("S", bound=Section)


class Choice(TypedDict):
    """A default that was filled in: the dotted field, its value, and the reason in a few words."""

    field: str
    value: object
    why: str


class Sizes(Protocol):
    """What the rules need to know of a model, such as :class:`beear.models.facts.ModelFacts`."""

    @property
    def layers(self) -> int:
        """Decoder layers, L."""

    @property
    def context(self) -> int:
        """Longest input in tokens."""

    @property
    def parameters(self) -> int:
        """Elements in the weights."""


class MethodRules(Protocol):
    """What :func:`resolve` needs of the chosen method (:class:`beear.methods.method.Method`)."""

    @property
    def section(self) -> type[Section]:
        """The class of the method's own fields."""
        ...

    @property
    def flat(self) -> bool:
        """Whether its fields are at ``method.*`` instead of ``method.NAME.*``."""
        ...

    def resolve(self, settings: Any, sizes: Sizes, max_length: int) -> tuple[Any, list[Choice]]:
        """Return the method's settings with every auto field filled in, and the choices made. ``max_length``: tokens of a row."""
        ...


class ResolvedData(DataConfig):
    """``data`` with its length filled in. An unset ``bucket`` stays so: each pass over the rows decides it by its length."""

    max_length: int


class ResolvedMethod(MethodConfig):
    """The settings that every method has, with every auto field filled in."""

    outer_lr: float
    batch_size: int


class ResolvedResistance(ResistanceConfig):
    """``evaluate.resistance`` with every auto field filled in."""

    @property
    def at_layers(self) -> tuple[int, ...]:
        """The perturbed layers, 1-based."""
        return tuple(int(layer) for layer in self.layers.split(","))


class ResolvedEvaluate(EvaluateConfig):
    """``evaluate`` with every auto field filled in."""

    batch_size: int
    resistance: ResolvedResistance


@dataclass(frozen=True)
class ResolvedConfig:
    """A run's settings with every auto field filled in.

    ``settings`` are the chosen method's own, an instance of its own class. ``values`` holds the whole configuration as plain
    data, nested as the user gives it. How the work is spread over workers is not here, because it changes no result
    (:class:`beear.parallel.spread.Spread`).
    """

    model: ModelConfig
    data: ResolvedData
    method: ResolvedMethod
    settings: Section
    adapter: AdapterConfig
    evaluate: ResolvedEvaluate
    gate: GateConfig
    tracking: TrackingConfig
    output: OutputConfig
    seed: int
    values: Mapping[str, Any]


def resolve(asked: RunConfig, method: MethodRules, sizes: Sizes) -> tuple[ResolvedConfig, list[Choice]]:
    """Return the settings with every auto field filled in, and the choices made.

    Raises:
        UserError: a setting does not fit the model, such as a layer beyond its depth.
    """
    if sizes.layers < 2:
        raise UserError(f"model.path: the model has {sizes.layers} decoder layer; expected at least 2")
    data, evaluate, others = _resolved_data_and_measures(asked, sizes)
    common, more = _resolved_method(asked, sizes)
    own, choices = method.resolve(_own_settings(asked.method, method), sizes, data.max_length)
    values = asked.model_dump(mode="json")
    own_values = own.model_dump(mode="json")
    values["method"] |= {**common.model_dump(mode="json"), **(own_values if method.flat else {})}
    if not method.flat and own_values:
        values["method"][common.name] = own_values
    values |= {"data": data.model_dump(mode="json"), "evaluate": evaluate.model_dump(mode="json")}
    config = ResolvedConfig(
        asked.model,
        data,
        common,
        own,
        asked.adapter,
        evaluate,
        asked.gate,
        asked.tracking,
        asked.output,
        asked.seed,
        values,
    )
    _check(config, asked.parallel, sizes)
    return config, [*choices, *more, *others]


def _own_settings(asked: MethodConfig, method: MethodRules) -> Section:
    """Return the method's own fields as asked for, as an instance of its own class."""
    names = method.section.model_fields
    held = asked if method.flat else getattr(asked, asked.name, None)
    return method.section.model_validate({name: getattr(held, name) for name in names if held is not None})


def default_layer(layers: int) -> int:
    """Return the default layer l (1-based) to perturb in a model of ``layers`` layers."""
    return max(1, min(round(DEPTH_SHARE * layers), layers - 1))


def default_outer_lr(parameters: int, lora: bool = False) -> float:
    """Return the AdamW learning rate for a model of this many parameters, rounded to two significant digits."""
    size = min(max(float(parameters), OUTER_LR[0][0]), OUTER_LR[-1][0])
    (left, high), (right, low) = next(pair for pair in pairwise(OUTER_LR) if size <= pair[1][0])
    share = math.log(size / left) / math.log(right / left)
    return float(f"{high * (low / high) ** share * (LORA_FACTOR if lora else 1):.1e}")


def _filled(kind: type[S], section: Section, **values: Any) -> S:
    """Return ``section`` as its resolved class ``kind``, with ``values`` in place of its own."""
    names = kind.model_fields
    known = {name: value for name, value in section.model_dump().items() if name in names}
    return kind.model_validate({**known, **values})


def _resolved_method(asked: RunConfig, sizes: Sizes) -> tuple[ResolvedMethod, list[Choice]]:
    method, choices, size = asked.method, list[Choice](), f"{_count(sizes.parameters)} parameters"
    outer_lr, batch_size = method.outer_lr, method.batch_size
    if outer_lr is None:
        lora = asked.adapter.kind == "lora"
        outer_lr = default_outer_lr(sizes.parameters, lora)
        why = size + (f", times {LORA_FACTOR:g} for LoRA" if lora else "")
        choices.append(Choice(field="method.outer_lr", value=outer_lr, why=why))
    if batch_size is None:
        batch_size = next(rows for most, rows in BATCH_SIZE if sizes.parameters <= most)
        choices.append(Choice(field="method.batch_size", value=batch_size, why=size))
    return _filled(ResolvedMethod, method, outer_lr=outer_lr, batch_size=batch_size), choices


def _resolved_data_and_measures(asked: RunConfig, sizes: Sizes) -> tuple[ResolvedData, ResolvedEvaluate, list[Choice]]:
    data, evaluate, choices = asked.data, asked.evaluate, list[Choice]()
    longest, prompts, layers = data.max_length, evaluate.batch_size, evaluate.resistance.layers
    if longest is None:
        longest = min(LONGEST, sizes.context)
        why = f"the model's context is {sizes.context} tokens"
        choices.append(Choice(field="data.max_length", value=longest, why=why))
    if prompts is None:
        prompts = next(rows for most, rows in PROMPTS if sizes.parameters <= most)
        choices.append(Choice(field="evaluate.batch_size", value=prompts, why=f"{_count(sizes.parameters)} parameters"))
    if layers == "auto":
        layers = str(default_layer(sizes.layers))
        why = f"{DEPTH_SHARE} of {sizes.layers} layers, whatever method.layer is"
        choices.append(Choice(field="evaluate.resistance.layers", value=layers, why=why))
    resistance = _filled(ResolvedResistance, evaluate.resistance, layers=layers)
    return (
        _filled(ResolvedData, data, max_length=longest),
        _filled(ResolvedEvaluate, evaluate, batch_size=prompts, resistance=resistance.model_dump()),
        choices,
    )


def check_parallel(parallel: ParallelConfig, engine: str, gpus_per_worker: float | None) -> None:
    """Check that the settings fit each other. ``gpus_per_worker`` is None while it is not known.

    Raises:
        UserError: two settings contradict each other.
    """
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
    if not gpus_per_worker and engine == "vllm":
        raise UserError("evaluate.engine is vllm and workers have no GPU; expected the engine torch, or workers with a GPU")


def within(name: str, value: int, limit: int, why: str) -> None:
    """Check that a setting lies in 1..``limit``. ``why`` says in a few words what sets the limit.

    Raises:
        UserError: it does not.
    """
    if not 1 <= value <= limit:
        raise UserError(f"{name} is {value}; expected 1 to {limit} ({why})")


def depth(sizes: Sizes) -> str:
    """Return the reason for a layer's limit, for :func:`within`."""
    return f"the model has {sizes.layers} decoder layers"


def _check(config: ResolvedConfig, parallel: ParallelConfig, sizes: Sizes) -> None:
    check_parallel(parallel, config.evaluate.engine, parallel.gpus_per_worker)
    longest = config.data.max_length
    for layer in config.evaluate.resistance.at_layers:
        within("evaluate.resistance.layers", layer, sizes.layers - 1, depth(sizes))
    within("data.max_length", longest, sizes.context, "the model's context in tokens")
    within("evaluate.resistance.length", config.evaluate.resistance.length, longest, "data.max_length")
    shorter = "one token less than the model's context"
    within("evaluate.max_new_tokens", config.evaluate.max_new_tokens, sizes.context - 1, shorter)
    if (workers := parallel.workers) > config.method.batch_size:
        raise UserError(
            f"parallel.workers is {workers}; expected 1 to {config.method.batch_size} (method.batch_size: each needs a row), "
            f"or --method.batch_size {workers}"
        )


def _count(parameters: int) -> str:
    for unit, size in (("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if parameters >= size:
            return f"{parameters / size:.3g}{unit}"
    return str(parameters)
