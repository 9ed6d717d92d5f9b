"""The universal perturbation: which positions get which vector, the module that holds them, and their unit.

An index map [B, T] over the sequence ``[prompt (P, left-padded) | answer (R)]`` says which of the perturbation's vectors is added
at each position; ``NONE`` where none is. A new placement is one function, an entry in ``PLACEMENTS``, and
its name in ``beear.config.schema.PLACEMENTS``.

Legend: B rows, P prompt tokens, R answer tokens, T = P + R, n vectors, D hidden.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from beear.data.batch import DefenseBatch
from beear.models.decoder import Decoder

NONE = -1


@dataclass(frozen=True)
class Placement:
    """One way to place vectors.

    Args:
        index: returns the index map [B, P] of prompts, by their mask [B, P], the tokens to skip at each end [B], and n.
        vectors: returns the number of vectors, from n and the longest prompt's tokens.
        answer: the vector of every answer token, or ``NONE``.
        late: most positions come before the perturbed ones, so that they never see δ and can be computed once.
    """

    index: Callable[[Tensor, Tensor, int], Tensor]
    vectors: Callable[[int, int], int]
    answer: int = NONE
    late: bool = False


def _right_aligned(mask: Tensor, skipped: Tensor, n: int) -> Tensor:
    columns = torch.arange(mask.shape[1], device=mask.device)
    # Each column's distance [B, P] from the last token that is not skipped, which has 0.
    back = mask.shape[1] - 1 - columns[None, :] - skipped[:, None]
    return torch.where((back >= 0) & (back < n) & mask, n - 1 - back, NONE)


def _prefix(mask: Tensor, _skipped: Tensor, n: int) -> Tensor:
    position = mask.long().cumsum(-1) - 1
    return torch.where(mask & (position < n), position, NONE)


def _one_vector(mask: Tensor, _skipped: Tensor, _n: int) -> Tensor:
    return torch.where(mask, 0, NONE)


PLACEMENTS: dict[str, Placement] = {
    "suffix": Placement(_right_aligned, vectors=lambda n, _longest: n, late=True),
    "prefix": Placement(_prefix, vectors=lambda n, _longest: n),
    "prompt": Placement(_right_aligned, vectors=lambda _n, longest: longest),
    "broadcast": Placement(_one_vector, vectors=lambda _n, _longest: 1),
    "everywhere": Placement(_one_vector, vectors=lambda _n, _longest: 1, answer=0),
}


class Perturbation(nn.Module):
    """δ [n, D], added to the output of decoder layer ``layer`` (1-based).

    ``delta * rms`` is added, where ``rms`` is the RMS of an ordinary token's hidden state there (:func:`unit`). So the parameter
    ``delta`` has no unit, and a learning rate or a bound means the same in a small model and in one of 70B. It starts at zero, or
    as a Gaussian of standard deviation ``scale``.
    """

    def __init__(
        self,
        hidden_size: int,
        layer: int,
        placement: str,
        length: int = 5,
        longest_prompt: int = 0,
        rms: float = 1.0,
        suffix_from: str = "prompt",
        scale: float = 0.0,
        seed: int = 0,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        """Make a perturbation. ``length``: n. ``longest_prompt`` (tokens): vectors of the ``prompt`` placement."""
        super().__init__()
        self.layer, self.placement, self.rms, self.suffix_from = layer, placement, rms, suffix_from
        vectors = PLACEMENTS[placement].vectors(length, longest_prompt)
        noise = torch.randn(vectors, hidden_size, generator=torch.Generator().manual_seed(seed))
        self.delta = nn.Parameter((scale * noise).to(device=device, dtype=dtype))

    def index(self, prompt_mask: Tensor, user_end: Tensor, answer_tokens: int) -> Tensor:
        """Return the index map [B, T] of prompts with ``prompt_mask`` [B, P] that are followed by ``answer_tokens`` tokens.

        ``user_end`` [B]: template tokens after the user's text. A suffix that counts from the user's text skips them.
        """
        counted_from_user = self.placement == "suffix" and self.suffix_from == "user"
        skipped = user_end if counted_from_user else torch.zeros_like(user_end)
        placement = PLACEMENTS[self.placement]
        prompts = placement.index(prompt_mask, skipped, self.delta.shape[0])
        answers = prompts.new_full((prompts.shape[0], answer_tokens), placement.answer)
        return torch.cat([prompts, answers], dim=1)

    def add(self, hidden: Tensor, index: Tensor) -> Tensor:
        """Return ``hidden`` [B, T, D] plus the vectors that ``index`` [B, T] names; positions with ``NONE`` stay as they are."""
        vectors = (self.delta * self.rms).to(hidden.dtype)
        chosen = vectors[index.clamp_min(0)]
        return hidden + chosen * (index != NONE).unsqueeze(-1)

    @torch.no_grad()
    def project(self, bound: float | None) -> None:
        """Shrink each vector to a norm of at most ``bound``, in units of RMS * sqrt(D). None: no bound."""
        if bound is None:
            return
        limit = bound * self.delta.shape[1] ** 0.5
        norms = self.delta.norm(dim=-1, keepdim=True)
        self.delta.mul_((limit / norms.clamp_min(1e-12)).clamp_max(1.0))

    @property
    def size(self) -> float:
        """Largest per-vector norm, in units of RMS * sqrt(D)."""
        return float(self.delta.detach().norm(dim=-1).max()) / self.delta.shape[1] ** 0.5


def sizes_after(decoder: Decoder, batch: DefenseBatch, layer: int) -> Tensor:
    """Return [sum of log RMS, tokens] (float64) over the batch's prompt tokens after layer ``layer``, for :func:`unit`.

    Add the results of batches and workers.
    """
    if batch.rows == 0:
        return torch.zeros(2, dtype=torch.float64, device=batch.prompt_ids.device)
    hidden = decoder.hidden(layer, batch.prompt_ids, batch.prompt_mask)[batch.prompt_mask].double()
    squares = hidden.square().mean(dim=-1)
    squares = squares[squares != 0]
    return torch.stack([0.5 * squares.log().sum(), torch.tensor(float(squares.numel()), device=squares.device).double()])


def unit(total: float, count: float) -> float:
    """Return the unit of δ: the RMS of an ordinary token's hidden state, as the geometric mean over tokens.

    The RMS over all tokens would be too large: in large models the first token's activations can be a thousand times those of the
    others (arXiv 2402.17762).
    """
    return math.exp(total / count) if count else 0.0


def unit_after(decoder: Decoder, batches: Sequence[DefenseBatch], layer: int, reduce: Callable[[Tensor], Tensor]) -> float:
    """Return the unit of δ after layer ``layer`` over all workers' ``batches``. ``reduce`` adds a tensor over the workers."""
    nothing = torch.zeros(2, dtype=torch.float64, device=decoder.device)
    return unit(*reduce(sum((sizes_after(decoder, batch, layer) for batch in batches), start=nothing)).tolist())
