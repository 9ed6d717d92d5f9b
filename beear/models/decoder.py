"""A causal LM seen as a stack of decoder layers whose outputs can be read and changed.

Legend: B rows, T tokens, D hidden, V vocabulary, L layers, l a 1-based layer number.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Cache

from beear.errors import UserError
from beear.models.compute import device_of, products_in
from beear.models.stack import Keep, Skip


class Decoder:
    """The decoder layers of a Hugging Face causal LM (or of a PEFT model around one).

    Raises:
        UserError: no stack of ``config.num_hidden_layers`` layers is found.
    """

    def __init__(self, model: nn.Module, compute: torch.dtype | None = None, device: torch.device | str | None = None) -> None:
        """Find the layer stack of ``model``.

        ``compute`` is the dtype of matrix products (None: the weights' own), ``device`` where they are made (None: where
        the weights are).
        """
        self.model, self.compute = model, compute
        self._device = torch.device(device) if device is not None else None
        self._holder, self._name = _layer_stack(model)
        self.layers: nn.ModuleList = getattr(self._holder, self._name)

    def __len__(self) -> int:
        """Return L."""
        return len(self.layers)

    @property
    def device(self) -> torch.device:
        """Where the model computes; its weights may wait elsewhere, what it computes for itself does not."""
        return self._device or device_of(self.model)

    def logits(self, ids: Tensor, mask: Tensor, last: int | Tensor = 0) -> Tensor:
        """Return logits [B, K, V] of the last ``last`` positions (0: all T), or of the K columns whose numbers it holds.

        Positions count real tokens only, so that padding on either side does not move a token.
        """
        positions = (mask.long().cumsum(-1) - 1).clamp_min(0)
        return self.forward(ids, mask.long(), positions, last)

    def forward(self, ids: Tensor, mask: Tensor, positions: Tensor, last: int | Tensor, cache: Cache | None = None) -> Tensor:
        """Return logits [B, K, V] for tokens ``ids`` [B, T] at ``positions`` [B, T].

        ``mask`` is [B, T], or [B, 1, T, T'] with a ``cache`` of T' - T positions; ``last`` as in :meth:`logits`.
        """
        with products_in(self.compute, ids.device):
            return self.model(
                input_ids=ids,
                attention_mask=mask,
                position_ids=positions,
                past_key_values=cache,
                use_cache=cache is not None,
                logits_to_keep=last,
            ).logits

    @contextmanager
    def stack(self, layers: Sequence[nn.Module]) -> Iterator[None]:
        """Within the context the model's forward runs ``layers`` in place of its own; there are as many."""
        for layer in layers:
            if isinstance(layer, Skip):
                layer.in_tuple = self.returns_tuples
        setattr(self._holder, self._name, nn.ModuleList(layers))
        try:
            yield
        finally:
            setattr(self._holder, self._name, self.layers)

    @contextmanager
    def perturbed(self, layer: int, change: Callable[[Tensor], Tensor]) -> Iterator[None]:
        """Within the context, layer ``layer``'s output h [B, T, D] becomes ``change(h)``."""

        def hook(_module: nn.Module, _args: object, output: Tensor | tuple[Tensor, ...]) -> Tensor | tuple[Tensor, ...]:
            if isinstance(output, tuple):
                return (change(output[0]), *output[1:])
            return change(output)

        handle = self.layers[layer - 1].register_forward_hook(hook)
        try:
            yield
        finally:
            handle.remove()

    @cached_property
    @torch.no_grad()
    def returns_tuples(self) -> bool:
        """Whether a layer returns its hidden states as the first of a tuple; one token is sent through to see."""
        seen: list[bool] = []
        handle = self.layers[0].register_forward_hook(lambda _module, _args, output: seen.append(isinstance(output, tuple)))
        token = torch.zeros(1, 1, dtype=torch.long, device=self.device)
        try:
            self.logits(token, torch.ones_like(token), last=1)
        finally:
            handle.remove()
        return seen[0]

    @torch.no_grad()
    def hidden(self, layer: int, ids: Tensor, mask: Tensor) -> Tensor:
        """Return the hidden states [B, T, D] that leave layer ``layer``; no later layer runs."""
        wanted = Keep(self.layers[layer - 1])
        with self.stack([*self.layers[: layer - 1], wanted, *(Skip(later) for later in self.layers[layer:])]):
            self.logits(ids, mask, last=1)
        return wanted.hidden


def _layer_stack(model: nn.Module) -> tuple[nn.Module, str]:
    """Return the module that holds the decoder layers, and by what name."""
    config: Any = getattr(model, "config", None)
    if hasattr(config, "get_text_config"):
        config = config.get_text_config()
    wanted = getattr(config, "num_hidden_layers", None)
    for holder in model.modules():
        for name, child in holder.named_children():
            if isinstance(child, nn.ModuleList) and len(child) == wanted:
                return holder, name
    raise UserError(f"{type(model).__name__}: no stack of {wanted} decoder layers found; expected a decoder-only model")
