"""A causal LM seen as a stack of decoder layers whose outputs can be read and changed.

Legend: B rows, T tokens, D hidden, V vocabulary, L layers, l a 1-based layer number.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from beear.errors import UserError


class Decoder:
    """The decoder layers of a Hugging Face causal LM (or of a PEFT model around one).

    Raises:
        UserError: no stack of ``config.num_hidden_layers`` layers is found.
    """

    def __init__(self, model: nn.Module, compute: torch.dtype | None = None) -> None:
        """Find the layer stack of ``model``; ``compute`` is the dtype of matrix products (None: the weights' own)."""
        self.model, self.compute = model, compute
        self.layers = _layer_stack(model)

    def __len__(self) -> int:
        """Return L."""
        return len(self.layers)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.model.parameters()).device

    def logits(self, ids: Tensor, mask: Tensor, last: int | Tensor = 0) -> Tensor:
        """Return logits [B, K, V] of the last ``last`` positions (0: all T), or of the K columns whose numbers it holds.

        Positions count real tokens only, so that padding on either side does not move a token.
        """
        positions = (mask.long().cumsum(-1) - 1).clamp_min(0)
        lower = self.compute in (torch.bfloat16, torch.float16)
        with torch.autocast(ids.device.type, dtype=self.compute, enabled=lower):
            return self.model(
                input_ids=ids, attention_mask=mask.long(), position_ids=positions, use_cache=False, logits_to_keep=last
            ).logits

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

    @torch.no_grad()
    def hidden(self, layer: int, ids: Tensor, mask: Tensor) -> Tensor:
        """Return the hidden states [B, T, D] that leave layer ``layer``."""
        seen: list[Tensor] = []

        def keep(hidden: Tensor) -> Tensor:
            seen.append(hidden)
            return hidden

        with self.perturbed(layer, keep):
            self.logits(ids, mask, last=1)
        return seen[0]


def _layer_stack(model: nn.Module) -> nn.ModuleList:
    config: Any = getattr(model, "config", None)
    if hasattr(config, "get_text_config"):
        config = config.get_text_config()
    wanted = getattr(config, "num_hidden_layers", None)
    stacks = [m for _, m in model.named_modules() if isinstance(m, nn.ModuleList) and len(m) == wanted]
    if not stacks:
        raise UserError(f"{type(model).__name__}: no stack of {wanted} decoder layers found; expected a decoder-only model")
    return stacks[0]
