"""A one-worker trial in a process that serves several trials: libraries, model and rows are loaded already.

Ray Train starts new processes for every run, which takes longer than a small model takes to train. What is computed is the
same: the same session, the same batches that Ray Data would stream, the same checkpoints.
"""

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch import nn

from beear.cluster.checkpoint import WEIGHTS, read_history, read_state, write_history, write_state
from beear.cluster.training_worker import epoch_record
from beear.config.schema import AdapterConfig
from beear.data.cached_template import RememberedTemplate
from beear.data.local import LocalBatches
from beear.data.templates import Template
from beear.engine.fit import EpochOutcome
from beear.engine.session import Session, Training, backend_of
from beear.models.compute import device_here
from beear.models.loading import load_tokenizer
from beear.models.source import CheckpointSource
from beear.parallel.base import Whole
from beear.records.report import EpochRecord
from beear.search.shared import Shared


class Kept:
    """A checkpoint that a process reads once, and rows that it tokenises once. Each trial trains a copy."""

    def __init__(self) -> None:
        """Hold nothing yet."""
        self._key: tuple[str, AdapterConfig, int, str | None] | None = None
        self._model: nn.Module
        self.template: Template

    def source(self, training: Training) -> Whole:
        """Return a source that holds a copy of the training's model; ``template`` is set then too."""
        config, facts = training.config, training.facts
        key = facts.digests["weights"], config.adapter, config.seed, config.model.chat_template
        if self._key != key:
            self._model = CheckpointSource(facts, config.adapter, config.seed).whole()
            self.template = RememberedTemplate(load_tokenizer(facts, config.model.chat_template))
            self._key = key
        return Whole(copy.deepcopy(self._model))


KEPT = Kept()


class InProcessTraining:
    """A trial's training, one epoch at a time."""

    def __init__(self, shared: Shared, settings: dict[str, Any], _trial: str) -> None:
        """Build everything."""
        training = shared.spec(settings).training
        backend = backend_of(training, device_here())
        self.session = Session(training, backend, LocalBatches, KEPT.source(training), KEPT.template)
        self.history: list[EpochRecord] = []
        self._outcome: EpochOutcome | None = None
        self._epochs: Iterator[EpochOutcome] | None = None
        self._done = 0
        self._last: int | None = None

    def next(self) -> tuple[EpochRecord, bool]:
        """Train one epoch; return its record and whether it is the last.

        Raises:
            FloatingPointError: a loss is not finite.
        """
        if self._epochs is None:
            self._epochs = self.session.epochs(self._done + 1, self._last)
        self._outcome = next(self._epochs)
        self.history.append(epoch_record(self._outcome))
        return self.history[-1], self._outcome.final

    def save(self, folder: Path) -> None:
        """Write what the trial resumes from."""
        assert self._outcome is not None
        (folder / WEIGHTS).mkdir(parents=True)
        self.session.backend.save(folder / WEIGHTS)
        write_state(folder, self._outcome.epoch, self._outcome.last, self.session.defense.state.values)
        write_history(folder, self.history)

    def resume(self, folder: Path) -> None:
        """Continue after the epoch that :meth:`save` wrote."""
        state = read_state(folder)
        self.history = read_history(folder)
        self.session.backend.load(folder / WEIGHTS)
        self.session.defense.state.values = state["method"]
        self._done, self._last, self._epochs = state["epoch"], state["last"], None

    def close(self) -> None:
        """Free the model, which the epoch iterator holds too."""
        self._epochs = self._outcome = None
        del self.session
