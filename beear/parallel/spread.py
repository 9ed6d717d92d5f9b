"""How weights lie on the workers, and what is traded for memory: one value from the memory plan to the backend."""

from dataclasses import dataclass
from typing import Literal

# Backends that spread weights or optimizer state over workers.
SHARDED = ("fsdp", "deepspeed")


@dataclass(frozen=True)
class Spread:
    """The fields of ``config.parallel`` with nothing left open, under the same names.

    ``gather``: shared weights are gathered ``once`` an entrapment, or in each ``step``. ``micro_batch``: rows that a worker
    computes at once in a removal step; None: its whole share. ``gpu``: workers compute on GPUs.
    """

    backend: str = "single"
    workers: int = 1
    zero_stage: int = 3
    offload: bool = False
    gather: Literal["once", "step"] = "once"
    micro_batch: int | None = None
    checkpoint_activations: bool = False
    gpu: bool = False

    @property
    def stage(self) -> int:
        """DeepSpeed's ZeRO stage, 0 for other backends."""
        return self.zero_stage if self.backend == "deepspeed" else 0

    @property
    def shares(self) -> tuple[bool, bool, bool]:
        """Whether workers share weights, gradients and AdamW's moments, each holding a part."""
        stage = 3 if self.backend == "fsdp" else self.stage
        return stage >= 3, stage >= 2, stage >= 1

    @property
    def splits_weights(self) -> bool:
        """Whether a worker holds only a part of the weights, so that a pass has to gather them."""
        return self.shares[0]
