"""Stand-ins for decoder layers: with them a model's own forward runs some of its layers and everything around them.

A model's forward makes positions, rotations, masks, the final norm and the head; only its list of layers is exchanged
(:meth:`beear.models.decoder.Decoder.stack`). So one mechanism serves every family whose layers take their hidden states
first and an ``attention_mask``.

Legend: B rows, T positions, D hidden.
"""

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

Change = Callable[[Tensor], Tensor]


class StandIn(nn.Module):
    """Stands in for ``layer``: attributes are read from the layer, which is not registered as a submodule."""

    def __init__(self, layer: nn.Module) -> None:
        """Stand in for ``layer``."""
        super().__init__()
        object.__setattr__(self, "layer", layer)

    def __getattr__(self, name: str) -> Any:
        """Return the layer's own attribute."""
        return getattr(object.__getattribute__(self, "layer"), name)


class Skip(StandIn):
    """Passes hidden states on, or ``change`` of them; the layer's weights are never touched.

    ``in_tuple``: the model expects them as the first of a tuple, as some families' layers return them.
    """

    in_tuple = False

    def __init__(self, layer: nn.Module, change: Change | None = None) -> None:
        """Pass on what comes, through ``change`` where it is given."""
        super().__init__(layer)
        self.change = change

    def forward(self, hidden: Tensor, *_args: Any, **_named: Any) -> Tensor | tuple[Tensor]:
        """Return hidden states [B, T, D]."""
        given = hidden if self.change is None else self.change(hidden)
        return (given,) if self.in_tuple else given


class NoteMask(Skip):
    """Passes hidden states on and keeps the attention mask that the model made for the layer."""

    def __init__(self, layer: nn.Module) -> None:
        """Keep ``mask`` once called."""
        super().__init__(layer)
        self.mask: Any = None

    def forward(self, hidden: Tensor, *args: Any, **named: Any) -> Tensor | tuple[Tensor]:
        """Return hidden states [B, T, D] as they are."""
        place = _place_of_mask(self.layer)
        self.mask = named.get("attention_mask", args[place - 1] if len(args) >= place else None)
        return super().forward(hidden)


class WithMask(StandIn):
    """Runs the layer with an attention mask [B, 1, T, T'] of one's own."""

    def __init__(self, layer: nn.Module, mask: Tensor) -> None:
        """``mask``: bool (True: attend) or additive, as the layer's attention takes it."""
        super().__init__(layer)
        self.own, self.place = mask, _place_of_mask(layer)

    def forward(self, hidden: Tensor, *args: Any, **named: Any) -> Any:
        """Return what the layer returns."""
        if len(args) >= self.place:
            args = (*args[: self.place - 1], self.own, *args[self.place :])
        else:
            named["attention_mask"] = self.own
        return self.layer(hidden, *args, **named)


class Keep(StandIn):
    """Runs ``layer`` (or a stand-in for it) and keeps the hidden states [B, T, D] that leave it."""

    def __init__(self, layer: nn.Module) -> None:
        """Keep ``hidden`` once called."""
        super().__init__(layer)
        self.hidden = torch.zeros(0)

    def forward(self, *args: Any, **named: Any) -> Any:
        """Return what the layer returns."""
        output = self.layer(*args, **named)
        self.hidden = output[0] if isinstance(output, tuple) else output
        return output


def _place_of_mask(layer: nn.Module) -> int:
    """Return the place of ``attention_mask`` among a layer's arguments, hidden states being number 0.

    Raises:
        NotImplementedError: the layer takes no such argument.
    """
    # The class's own forward, since an instance's may be wrapped.
    names = list(inspect.signature(type(layer).forward).parameters)[1:]
    if "attention_mask" not in names:
        raise NotImplementedError(f"{type(layer).__name__} takes no attention_mask")
    return names.index("attention_mask")
