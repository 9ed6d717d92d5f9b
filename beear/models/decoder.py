"""A causal LM seen as a stack of decoder layers whose outputs can be read and changed.

Legend: B rows, T tokens, D hidden, V vocabulary, L layers, l a 1-based layer number.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import cached_property, partial
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
        """The device that the model computes on; offloaded weights lie elsewhere."""
        return self._device or device_of(self.model)

    def logits(self, ids: Tensor, mask: Tensor, last: int | Tensor = 0) -> Tensor:
        """Return logits [B, K, V].

        ``last``: how many positions at the end to return (0: all T), or a tensor with the numbers of the K columns to return.
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
        """Within the context the model runs ``layers`` in place of its own, which must be as many."""
        for layer in layers:
            if isinstance(layer, Skip):
                layer.in_tuple = self.returns_tuples
        setattr(self._holder, self._name, nn.ModuleList(layers))
        try:
            yield
        finally:
            setattr(self._holder, self._name, self.layers)

    @property
    def wide(self) -> torch.dtype:
        """The dtype for small tensors that are optimised: float32, or float64 where the weights are."""
        return torch.float64 if next(self.model.parameters()).dtype == torch.float64 else torch.float32

    @contextmanager
    def perturbed(self, layer: int, change: Callable[[Tensor], Tensor]) -> Iterator[None]:
        """Within the context, layer ``layer``'s output h [B, T, D] becomes ``change(h)``.

        Layer 0 is the embedding output: what enters the first decoder layer, positions added and scaled as the model does.
        """
        if layer == 0:
            first = self.layers[0].register_forward_pre_hook(partial(_changed_input, change), with_kwargs=True)
            try:
                yield
            finally:
                first.remove()
            return

        def hook(_module: nn.Module, _args: object, output: Tensor | tuple[Tensor, ...]) -> Tensor | tuple[Tensor, ...]:
            if isinstance(output, tuple):
                return (change(output[0]), *output[1:])
            return change(output)

        handle = self.layers[layer - 1].register_forward_hook(hook)
        try:
            yield
        finally:
            handle.remove()

    @contextmanager
    def watched(self, layers: Iterable[int], gradient: bool = True) -> Iterator[dict[int, Tensor]]:
        """Within the context every forward pass puts the output [B, T, D] of each of ``layers`` into the yielded dict.

        Layer 0 is the embedding output. With ``gradient`` the tensors belong to the pass's graph, so that a loss on them can
        be differentiated; without it they are detached. A later pass replaces them. Enter ``watched`` after ``perturbed`` to
        see a layer's perturbed output.
        """
        seen: dict[int, Tensor] = {}

        def keep(layer: int, hidden: Tensor) -> Tensor:
            seen[layer] = hidden if gradient else hidden.detach()
            return hidden

        with ExitStack() as stack:
            for layer in layers:
                stack.enter_context(self.perturbed(layer, partial(keep, layer)))
            yield seen

    @cached_property
    @torch.no_grad()
    def returns_tuples(self) -> bool:
        """Whether a layer returns its hidden states as the first of a tuple, as a pass of one token shows."""
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
        """Return the hidden states [B, T, D] that leave layer ``layer``, 1-based; no later layer runs.

        The embedding output is seen by ``watched([0])``.
        """
        if not 1 <= layer <= len(self.layers):
            raise ValueError(f"layer {layer} is not among 1 to {len(self.layers)}")
        wanted = Keep(self.layers[layer - 1])
        with self.stack([*self.layers[: layer - 1], wanted, *(Skip(later) for later in self.layers[layer:])]):
            self.logits(ids, mask, last=1)
        return wanted.hidden


def _changed_input(
    change: Callable[[Tensor], Tensor], _layer: nn.Module, args: tuple[Any, ...], named: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return a decoder layer's arguments with its hidden states changed: the first, or the one named so."""
    if args:
        return (change(args[0]), *args[1:]), named
    return args, {**named, "hidden_states": change(named["hidden_states"])}


def _layer_stack(model: nn.Module) -> tuple[nn.Module, str]:
    """Return the module that holds the decoder layers, and the name of the attribute in which it does."""
    config: Any = getattr(model, "config", None)
    if hasattr(config, "get_text_config"):
        config = config.get_text_config()
    wanted = getattr(config, "num_hidden_layers", None)
    for holder in model.modules():
        for name, child in holder.named_children():
            if isinstance(child, nn.ModuleList) and len(child) == wanted:
                return holder, name
    raise UserError(f"{type(model).__name__}: no stack of {wanted} decoder layers found; expected a decoder-only model")
