"""How much memory measuring a checkpoint needs on the one device that holds it: arithmetic on its shape and the batches.

Figures are bytes of tensors. Completions, likelihoods and fresh attacks come one after the other; the largest decides.
"""

from dataclasses import dataclass

from beear.config.shape import ActivationBytes, ModelShape
from beear.parallel.devices import CONTEXT, Device
from beear.parallel.memory import MASTER, Work, plan_memory
from beear.parallel.spread import Spread

# Most logits of one batch, in numbers, when likelihoods are measured.
LOGITS = 2**27


@dataclass(frozen=True)
class Measuring:
    """What one process measures; lengths in tokens are those of the longest rows.

    ``rows`` prompts are completed together, by ``new`` tokens. ``labelled`` columns of a conversation reach the head.
    ``attack``: a step of entrapment resistance, None where it is off. ``beside``: the share of the device that another
    engine takes.
    """

    rows: int
    prompt: int
    new: int
    text: int
    labelled: int
    half: bool
    attack: Work | None
    beside: float = 0.0


@dataclass(frozen=True)
class MeasuringPlan:
    """Bytes beside the ``weights``; ``least``: with a single row at a time and without attacks."""

    device: Device
    weights: float
    completions: float
    likelihoods: float
    attacks: float
    least: float
    beside: float

    @property
    def most(self) -> tuple[str, float]:
        """What needs most beside the weights."""
        parts = (("completions", self.completions), ("likelihoods", self.likelihoods), ("fresh attacks", self.attacks))
        return max(parts, key=lambda part: part[1])

    @property
    def total(self) -> float:
        """The peak."""
        return self.weights + self.most[1]

    @property
    def room(self) -> float:
        """Bytes that tensors may take of the device."""
        return self.device.usable * (1 - self.beside)

    @property
    def fits(self) -> bool:
        """Whether the peak fits, with what is kept back for the driver and for fragments."""
        return self.total <= self.room

    @property
    def hopeless(self) -> bool:
        """Whether even the weights and the smallest batch need more than the device has, with nothing kept back."""
        there = (self.device.memory - (CONTEXT if self.device.gpu else 0.0)) * (1 - self.beside)
        return self.weights + self.least > there


def plan_measuring(shape: ModelShape, what: Measuring, device: Device) -> MeasuringPlan:
    """Return what one process holds on ``device``: all weights (a LoRA is merged by then), float32 on a CPU."""
    lora = shape.trained if shape.frozen else 0
    single = Spread("single", gpu=device.gpu)
    return MeasuringPlan(
        device,
        weights=(2 if what.half and device.gpu else MASTER) * (shape.parameters - lora),
        completions=what.rows * _completion(shape, what),
        likelihoods=_likelihoods(shape, what, what.rows),
        attacks=plan_memory(shape, what.attack, single).entrapment.activations if what.attack else 0.0,
        least=max(_completion(shape, what), _likelihoods(shape, what, 1)),
        beside=what.beside,
    )


def _completion(shape: ModelShape, what: Measuring) -> float:
    """Return one row's bytes: every layer's keys and values, the layer at work on the prompt, and the last logits."""
    size = 2 if what.half else MASTER
    cache = shape.layers * 2 * shape.kv_heads * shape.head_dim * (what.prompt + what.new) * size
    return cache + _kept(shape, what).bytes(what.prompt) + MASTER * shape.vocabulary


def _likelihoods(shape: ModelShape, what: Measuring, rows: int) -> float:
    """Return a batch's bytes: the layer at work, and logits with their log-softmax in float32."""
    a_row = what.labelled * shape.vocabulary
    together = min(rows, max(1, LOGITS // a_row))
    return together * (_kept(shape, what).bytes(what.text) + a_row * (2 * MASTER + (2 if what.half else 0)))


def _kept(shape: ModelShape, what: Measuring) -> ActivationBytes:
    return shape.activations.frozen_bfloat16 if what.half else shape.activations.frozen_float32
