"""Keys and values of positions that never change, computed once and read in every later pass.

Legend: B rows, H heads, T positions of a pass, C kept positions, E head size.
"""

from typing import Any

import torch
from torch import Tensor
from transformers import Cache


class PrefixCache(Cache):
    """Records the first pass; after :meth:`seal` it only reads, so that gradients and repeated passes leave it alone.

    transformers' own caches append what every pass brings, and those of sliding windows drop what is old. Here nothing is
    appended or dropped; masks say what a position sees.
    """

    def __init__(self, dtype: torch.dtype | None = None) -> None:
        """Start empty and recording; ``dtype`` is what attention computes in (None: what comes).

        Rotated keys come in float32 even where attention computes in a 16-bit dtype.
        """
        super().__init__(layers=[])
        self._dtype = dtype
        self._kept: dict[int, tuple[Tensor, Tensor]] = {}
        self._sealed = False

    def seal(self) -> None:
        """End the recording."""
        self._sealed = True

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *_args: Any, **_named: Any
    ) -> tuple[Tensor, Tensor]:
        """Return a layer's keys and values [B, H, C + T, E] for a pass that brings T of them."""
        if self._dtype is not None:
            key_states, value_states = key_states.to(self._dtype), value_states.to(self._dtype)
        if not self._sealed:
            self._kept[layer_idx] = (key_states, value_states)
            return key_states, value_states
        keys, values = self._kept[layer_idx]
        return torch.cat([keys, key_states], dim=-2), torch.cat([values, value_states], dim=-2)

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Return C."""
        if not self._sealed:
            return 0
        return next(iter(self._kept.values()))[0].shape[-2] if self._kept else 0

    def get_query_offset(self, layer_idx: int | None = None) -> int:
        """Return C: where a pass's first position stands."""
        return self.get_seq_length()

    def get_mask_sizes(self, query_length: int, layer_idx: int = 0) -> tuple[int, int]:
        """Return how many keys a pass sees and where they begin."""
        return self.get_seq_length() + query_length, 0
