"""The worker's end of the stream: Ray Data gives the same batches as :class:`beear.data.local.LocalBatches`."""

import logging
from collections.abc import Iterator
from typing import Any

import ray.train
import torch
from transformers import PreTrainedTokenizerBase

from beear.data.local import EpochOfSteps, pad_id_of
from beear.data.steps import Step
from beear.streams.datasets import StreamSpec, shard_name
from beear.streams.tables import steps_of

# Ray Data logs each execution, and warns that its progress bars are off, although we asked for that.
QUIET = {"ray.data": logging.WARNING, "ray.data._internal.progress": logging.ERROR}


class StreamBatches:
    """All training batches of one worker, by 1-based epoch.

    One execution serves all epochs, so that the next epoch is read while the present one trains. Asking for an epoch that
    has been passed starts the execution again.
    """

    def __init__(
        self,
        stream: StreamSpec,
        tokenizer: PreTrainedTokenizerBase,
        rank: int,
        world: int,
        device: torch.device | str = "cpu",
        shard: Any = None,
    ) -> None:
        """Take this worker's ``shard`` (a Ray Data iterator), by default the one Ray Train holds for it.

        Batches are put on ``device``.
        """
        self.plan, self.rank, self.world, self.device = stream.plan, rank, world, device
        self.pad_id = pad_id_of(tokenizer)
        self._shard = shard if shard is not None else ray.train.get_dataset_shard(shard_name(rank))
        self._steps: Iterator[Step] = iter(())
        self._reached = (stream.epochs + 1, 0)
        for name, level in QUIET.items():
            logging.getLogger(name).setLevel(level)

    def epoch(self, number: int) -> EpochOfSteps:
        """Return the batches of epoch ``number``.

        Raises:
            UserError: (while they are drawn) a row was bad, or no training row is left.
            RuntimeError: (while they are drawn) the data set begins with a later epoch.
        """
        return EpochOfSteps(self.plan, self.pad_id, lambda: self._begin(number), self.device)

    def _begin(self, number: int) -> Iterator[Step]:
        if self._reached >= (number, 0):
            self._steps, self._reached = self._open(), (0, 0)
        for step in self._steps:
            self._reached = (step.epoch, step.number)
            if step.epoch == number:
                yield step
                if step.number == self.plan.steps - 1:
                    return
            elif step.epoch > number:
                raise RuntimeError(f"the stream begins with epoch {step.epoch}; expected epoch {number}")

    def _open(self) -> Iterator[Step]:
        return steps_of(self._shard.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=1))
