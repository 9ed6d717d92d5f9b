"""Where the perturbation goes: one function per placement, from a prompt's shape to an index map.

An index map [B, T] over the sequence ``[prompt (P, left-padded) | answer (R)]`` says which of the perturbation's
vectors is added at each position, -1 for none. A new placement is one function and one entry in ``PLACEMENTS``.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

NONE = -1


@dataclass(frozen=True)
class Shape:
    """The prompt side of a batch: ``prompt_mask`` [B, P], ``shift`` [B] tokens skipped at the prompt's end, R answers."""

    prompt_mask: Tensor
    shift: Tensor
    answer_tokens: int


@dataclass(frozen=True)
class Placement:
    """``index`` gives the map of the prompt part [B, P]; ``vectors`` their number; ``answer`` what answer tokens get.

    ``late``: positions before the perturbed ones are there, as a rule, and never see δ.
    """

    index: Callable[[Shape, int], Tensor]
    vectors: Callable[[int, int], int]
    answer: int = NONE
    late: bool = False


def _from_end(shape: Shape) -> Tensor:
    """Return for each column how many positions it stands before the (shifted) prompt end, 0 at the end [B, P]."""
    columns = torch.arange(shape.prompt_mask.shape[1], device=shape.prompt_mask.device)
    return shape.prompt_mask.shape[1] - 1 - columns[None, :] - shape.shift[:, None]


def _right_aligned(shape: Shape, n: int) -> Tensor:
    back = _from_end(shape)
    return torch.where((back >= 0) & (back < n) & shape.prompt_mask, n - 1 - back, NONE)


def _prefix(shape: Shape, n: int) -> Tensor:
    position = shape.prompt_mask.long().cumsum(-1) - 1
    return torch.where(shape.prompt_mask & (position < n), position, NONE)


def _one_vector(shape: Shape, _n: int) -> Tensor:
    return torch.where(shape.prompt_mask, 0, NONE)


PLACEMENTS: dict[str, Placement] = {
    "suffix": Placement(_right_aligned, vectors=lambda n, _longest: n, late=True),
    "prefix": Placement(_prefix, vectors=lambda n, _longest: n),
    "prompt": Placement(_right_aligned, vectors=lambda _n, longest: longest),
    "broadcast": Placement(_one_vector, vectors=lambda _n, _longest: 1),
    "everywhere": Placement(_one_vector, vectors=lambda _n, _longest: 1, answer=0),
}


def index_map(placement: str, shape: Shape, vectors: int) -> Tensor:
    """Return the index map [B, P + R] of ``placement`` with ``vectors`` vectors."""
    entry = PLACEMENTS[placement]
    prompt = entry.index(shape, vectors)
    answer = prompt.new_full((prompt.shape[0], shape.answer_tokens), entry.answer)
    return torch.cat([prompt, answer], dim=1)
