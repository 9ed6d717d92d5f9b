"""Small models of every family with ragged batches and a δ, to compare the fast inner loop with the plain one."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn

from beear.data.batch import DefenseBatch
from beear.methods.entrapment import InnerRule, Objective, entrap
from beear.methods.perturbation import Perturbation
from beear.models.decoder import Decoder
from beear.testing.checkpoints import make_model
from beear.testing.tiny import defense_batch, defense_rows

LAYER = 2


def ragged(count: int, seed: int) -> DefenseBatch:
    """Return rows whose prompts (18 to 33 tokens) are longer than the test models' sliding window of 16."""
    return defense_batch([(prompt * 3, safe, unwanted) for prompt, safe, unwanted in defense_rows(count, seed)])


def model_of(family: str, dtype: torch.dtype) -> Decoder:
    """Return a random four-layer model of a family in :mod:`beear.testing.checkpoints`."""
    model = make_model(family, layers=4)
    nn.Module.to(model, dtype)
    if dtype == torch.float64 and hasattr(model.config, "_experts_implementation"):
        # The library's grouped product knows no float64.
        model.config._experts_implementation = "eager"
    return Decoder(model)


def attack_on(decoder: Decoder, placement: str, scale: float = 0.5, suffix_from: str = "prompt") -> Perturbation:
    """Return a δ after layer 2 of a model with D = 32, Gaussian of size ``scale``."""
    weight = next(decoder.model.parameters())
    return Perturbation(
        32, LAYER, placement, length=3, longest_prompt=40, scale=scale, suffix_from=suffix_from, dtype=weight.dtype
    )


def value(objective: Objective, attack: Perturbation, number: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Return CE(y_h), CE(y_s) [B each] of a batch and the gradient of the sum of their differences."""
    unwanted, safe = objective.losses(attack, number)
    (gradient,) = torch.autograd.grad((unwanted - safe).sum(), [attack.delta])
    return unwanted.detach(), safe.detach(), gradient


def delta_after(objective: Objective, decoder: Decoder, placement: str, steps: int) -> Tensor:
    """Return δ after ``steps`` Adam steps from zero."""
    attack = attack_on(decoder, placement, scale=0.0)
    entrap(objective, attack, InnerRule(steps=steps, lr=0.05), lambda tensor: tensor)
    return attack.delta.detach()


def gap(found: Tensor, expected: Tensor) -> float:
    """Return the norm of the difference over the norm."""
    return float((found - expected).norm() / expected.norm())


@contextmanager
def float64_throughout() -> Iterator[None]:
    """Keep float64 tensors in float64 within the context.

    The library's norms, routers and softmaxes convert to float32 otherwise.
    """
    to, to_float, softmax = Tensor.to, Tensor.float, torch.nn.functional.softmax

    def wide(tensor: Tensor, given: tuple[Any, ...], named: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        if tensor.dtype != torch.float64:
            return given, named
        kept = tuple(torch.float64 if value is torch.float32 else value for value in given)
        return kept, {key: torch.float64 if value is torch.float32 else value for key, value in named.items()}

    def wide_to(tensor: Tensor, *given: Any, **named: Any) -> Tensor:
        given, named = wide(tensor, given, named)
        return to(tensor, *given, **named)

    def wide_float(tensor: Tensor, *given: Any, **named: Any) -> Tensor:
        return tensor if tensor.dtype == torch.float64 else to_float(tensor, *given, **named)

    def wide_softmax(tensor: Tensor, *given: Any, **named: Any) -> Tensor:
        given, named = wide(tensor, given, named)
        return softmax(tensor, *given, **named)

    with (
        patch.object(Tensor, "to", wide_to),
        patch.object(Tensor, "float", wide_float),
        patch.object(torch.nn.functional, "softmax", wide_softmax),
    ):
        yield
