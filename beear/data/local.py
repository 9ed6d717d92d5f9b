"""Training batches read and tokenised in this process: the same ones that :mod:`beear.streams` gets from Ray Data."""

from collections.abc import Callable, Iterator
from itertools import islice

import torch
from transformers import PreTrainedTokenizerBase

from beear.data.batch import DefenseBatch, OuterBatch
from beear.data.collate import collate_defense, collate_text
from beear.data.steps import Step, Steps, TrainingPlan
from beear.data.templates import Template


class EpochOfSteps:
    """One epoch's batches, made of steps as they come.

    The first ``inner_batches`` defense batches serve the inner loop, and are also the first ones of removal.
    """

    def __init__(
        self, plan: TrainingPlan, pad_id: int, begin: Callable[[], Iterator[Step]], device: torch.device | str = "cpu"
    ) -> None:
        """``begin`` starts the epoch's steps; asking for the batches a second time calls it a second time."""
        self.plan, self.pad_id, self._begin, self.device = plan, pad_id, begin, device
        self._head: list[Step] = []
        self._rest: Iterator[Step] | None = None

    def inner(self) -> list[DefenseBatch]:
        """Return the epoch's first ``inner_batches`` defense batches."""
        if self._rest is None:
            self._rest = self._begin()
            self._head = list(islice(self._rest, self.plan.inner_batches))
        return [self._defense(step) for step in self._head]

    def outer(self) -> Iterator[OuterBatch]:
        """Yield the epoch's ``outer_steps`` removal batches."""
        self.inner()
        rest, self._rest = self._rest, None
        assert rest is not None
        for step in self._head:
            if step.number < self.plan.outer_steps:
                yield self._outer(step)
        for step in rest:
            yield self._outer(step)

    def _defense(self, step: Step) -> DefenseBatch:
        return collate_defense(step.defense, self.pad_id, self.plan.batch_size).to(self.device)

    def _outer(self, step: Step) -> OuterBatch:
        return OuterBatch(self._defense(step), collate_text(step.text, self.pad_id, self.plan.batch_size).to(self.device))


class LocalBatches:
    """All training batches of worker ``rank`` of ``world``, read and tokenised in this process."""

    def __init__(
        self, plan: TrainingPlan, template: Template, rank: int = 0, world: int = 1, device: torch.device | str = "cpu"
    ) -> None:
        """Open the plan's data sets; batches are put on ``device``.

        Raises:
            UserError: there are more workers than rows in a batch.
        """
        self.plan, self.device = plan, device
        self.pad_id = pad_id_of(template.tokenizer)
        self._steps = Steps(plan, template, rank, world)

    def epoch(self, number: int) -> EpochOfSteps:
        """Return the batches of 1-based epoch ``number``: the same ones on each call, and nothing of other epochs is read."""
        return EpochOfSteps(self.plan, self.pad_id, lambda: self._steps.epoch(number), self.device)


def pad_id_of(tokenizer: PreTrainedTokenizerBase) -> int:
    """Return the id that fills padded columns. They are masked everywhere, so any id of the vocabulary serves."""
    return next((int(i) for i in (tokenizer.pad_token_id, tokenizer.eos_token_id) if i is not None), 0)
