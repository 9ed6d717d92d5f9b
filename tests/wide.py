"""Keeps float64 models in float64: the library's norms, routers and softmaxes work in float32 otherwise."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor


@contextmanager
def float64_throughout() -> Iterator[None]:
    """Within the context a float64 tensor that is asked for in float32 stays as it is."""
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

    Tensor.to, Tensor.float, torch.nn.functional.softmax = wide_to, wide_float, wide_softmax  # type: ignore[method-assign]
    try:
        yield
    finally:
        Tensor.to, Tensor.float, torch.nn.functional.softmax = to, to_float, softmax  # type: ignore[method-assign]
