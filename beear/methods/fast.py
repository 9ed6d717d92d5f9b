"""The fast objective: the losses of the plain one, but what δ cannot change is computed only once.

The weights are frozen and the model is causal. Therefore:
(a) layers 1..l run once, and their output is kept;
(b) positions before the first perturbed one never see δ, so their keys and values above l are kept too (useful for ``suffix``);
(c) both answers follow one prompt, as ``[prompt | y_h | y_s]``, with a mask that keeps each answer from seeing the other;
(d) logits are computed only for columns that predict a labelled token.
The model's own forward always runs, with replacements in its list of layers. So everything that a model family does around its
layers stays as it is.

Legend: y_h the unwanted answer, y_s the safe one, B rows, P prompt tokens, T = P + Rh + Rs packed columns, c the first perturbed
column, D hidden, K labelled columns.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from beear.data.batch import DefenseBatch
from beear.methods.losses import row_cross_entropy
from beear.methods.packing import Packed, causal_mask, pack, tree_mask
from beear.methods.perturbation import NONE, PLACEMENTS, Perturbation
from beear.models.compute import lowered
from beear.models.decoder import Decoder
from beear.models.prefix_cache import PrefixCache
from beear.models.stack import Change, Keep, NoteMask, Skip, WithMask


@dataclass(frozen=True)
class Lower:
    """What is the same for all placements: ``masks`` [B, 1, T, T] of layers 1..L, and ``hidden`` [B, T, D] after layer l."""

    packed: Packed
    masks: list[Tensor]
    hidden: Tensor


@dataclass(frozen=True)
class Upper:
    """What depends on the placement.

    ``first``: c. ``index`` [B, T - c]: the vector of δ at each column. ``masks`` [B, 1, T - c, T] of layers 1..L. ``cache``: keys
    and values of layers l+1..L in the columns before c.
    """

    first: int
    index: Tensor
    masks: list[Tensor]
    cache: PrefixCache | None


class FastObjective:
    """Computes both answers' losses by one pass through layers l+1..L over the columns that δ can reach.

    It keeps what the weights gave at a batch's first use, so make a new one after every change of the weights. It keeps keys and
    values of the latest perturbation only.
    """

    def __init__(self, decoder: Decoder, batches: list[DefenseBatch], layer: int, differing: bool = True) -> None:
        """``layer``: l (1-based). ``differing``: take the losses only on tokens in which the two answers differ."""
        self.decoder, self.batches, self.layer, self.differing = decoder, batches, layer, differing
        self._lower: dict[int, Lower] = {}
        self._upper: dict[int, tuple[Perturbation, Upper]] = {}

    def losses(self, perturbation: Perturbation, batch: int) -> tuple[Tensor, Tensor]:
        """Return CE(y_h), CE(y_s) [B each] of batch number ``batch``.

        Raises:
            NotImplementedError: the model has layers or masks of an unknown kind.
        """
        lower, upper = self._lower_of(batch), self._upper_of(perturbation, batch)
        packed, first = lower.packed, upper.first

        def perturb(_embedded: Tensor) -> Tensor:
            return perturbation.add(lower.hidden[:, first:], upper.index)

        with self.decoder.stack(self._above(perturb, upper.masks)):
            logits = self.decoder.forward(
                packed.ids[:, first:], upper.masks[0], packed.positions[:, first:], packed.columns - first, upper.cache
            )
        unwanted, safe = (
            row_cross_entropy(logits[:, side.places], side.ids, side.labelled) for side in (packed.unwanted, packed.safe)
        )
        return unwanted, safe

    def _above(self, entering: Change, masks: Sequence[Tensor]) -> list[nn.Module]:
        """Return layers of which 1..l compute nothing, and the l-th returns the hidden states that ``entering`` gives."""
        layers, l_ = self.decoder.layers, self.layer
        below = [*(Skip(layer) for layer in layers[: l_ - 1]), Skip(layers[l_ - 1], entering)]
        return [*below, *(WithMask(layer, mask) for layer, mask in zip(layers[l_:], masks[l_:], strict=True))]

    @torch.no_grad()
    def _lower_of(self, number: int) -> Lower:
        if number not in self._lower:
            decoder, l_ = self.decoder, self.layer
            packed = pack(self.batches[number], self.differing)
            masks = self._masks(self.batches[number])
            last = Keep(WithMask(decoder.layers[l_ - 1], masks[l_ - 1]))
            below = [WithMask(layer, mask) for layer, mask in zip(decoder.layers[: l_ - 1], masks, strict=False)]
            with decoder.stack([*below, last, *(Skip(layer) for layer in decoder.layers[l_:])]):
                decoder.forward(packed.ids, masks[0], packed.positions, last=1)
            self._lower[number] = Lower(packed, masks, last.hidden)
        return self._lower[number]

    @torch.no_grad()
    def _upper_of(self, perturbation: Perturbation, number: int) -> Upper:
        if number in self._upper and self._upper[number][0] is perturbation:
            return self._upper[number][1]
        batch, lower = self.batches[number], self._lower_of(number)
        answers = lower.packed.ids.shape[1] - batch.prompt_ids.shape[1]
        index = perturbation.index(batch.prompt_mask, batch.user_end, answers)
        first, cache = 0, None
        if PLACEMENTS[perturbation.placement].late:
            perturbed = (index != NONE).any(0).nonzero()
            # The prompt's last column predicts both answers' first tokens, so it always runs.
            first = min(int(perturbed[0]) if len(perturbed) else index.shape[1], batch.prompt_ids.shape[1] - 1)
            # If weights are sharded, all workers must make this pass. A worker whose prompts are too short drops the result.
            head = self._head(lower, max(first, 1))
            cache = head if first else None
        # Layers that share a mask also share its part.
        reached = {id(mask): mask[:, :, first:].contiguous() for mask in {id(m): m for m in lower.masks}.values()}
        masks = [reached[id(mask)] for mask in lower.masks]
        upper = Upper(first, index[:, first:], masks, cache)
        self._upper[number] = (perturbation, upper)
        return upper

    def _head(self, lower: Lower, first: int) -> PrefixCache:
        """Return keys and values of layers l+1..L in the columns before ``first``, which δ does not reach."""
        cache, masks = PrefixCache(lowered(self.decoder.compute)), [mask[:, :, :first, :first] for mask in lower.masks]
        with self.decoder.stack(self._above(lambda _embedded: lower.hidden[:, :first], masks)):
            self.decoder.forward(lower.packed.ids[:, :first], masks[0], lower.packed.positions[:, :first], last=1, cache=cache)
        cache.seal()
        return cache

    def _masks(self, batch: DefenseBatch) -> list[Tensor]:
        """Return each layer's mask [B, 1, T, T] for the packed sequence. Layers with equal masks share one tensor."""
        prompt = batch.prompt_mask.shape[1]
        sides = [
            self._own_masks(torch.cat([batch.prompt_ids, ids], dim=1), torch.cat([batch.prompt_mask, mask], dim=1))
            for ids, mask in ((batch.unwanted_ids, batch.unwanted_mask), (batch.safe_ids, batch.safe_mask))
        ]
        made: dict[tuple[int, int], Tensor] = {}
        result = []
        for unwanted, safe in zip(*sides, strict=True):
            key = (id(unwanted), id(safe))
            if key not in made:
                made[key] = self._additive(tree_mask(unwanted, safe, prompt).expand(batch.rows, -1, -1, -1))
            result.append(made[key])
        return result

    def _own_masks(self, ids: Tensor, mask: Tensor) -> list[Tensor]:
        """Return the masks that the model gives its layers for ``ids`` [B, T]."""
        notes = [NoteMask(layer) for layer in self.decoder.layers]
        with self.decoder.stack(notes):
            self.decoder.logits(ids, mask, last=1)
        causal = causal_mask(ids.shape[1], ids.device)
        masks = [causal if note.mask is None else note.mask for note in notes]
        for found in masks:
            if not isinstance(found, Tensor) or found.dim() != 4:
                raise NotImplementedError(f"attention masks of kind {type(found).__name__}")
        return masks

    def _additive(self, mask: Tensor) -> Tensor:
        """Return ``mask`` in the additive form, so that attention need not convert it in every layer and step.

        A mask that autocast would convert again stays as it is.
        """
        dtype = next(self.decoder.model.parameters()).dtype
        if mask.dtype != torch.bool or self.decoder.compute not in (None, dtype):
            return mask
        return torch.zeros_like(mask, dtype=dtype).masked_fill_(~mask, float("-inf"))
