"""Counting the collectives that gather weights."""

from typing import Any

import torch.distributed as dist


class Gathers:
    """Counts them while it is entered."""

    def __enter__(self) -> "Gathers":
        self.count, self._real = 0, dist.all_gather_single
        dist.all_gather_single = self._counted  # type: ignore[assignment]
        return self

    def _counted(self, *arguments: Any, **named: Any) -> Any:
        self.count += 1
        return self._real(*arguments, **named)

    def __exit__(self, *_: object) -> None:
        dist.all_gather_single = self._real
