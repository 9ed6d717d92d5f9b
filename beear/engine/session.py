"""The training session of one worker. It is the same in Ray Train, in a test and without Ray."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
from torch import nn
from transformers import PreTrainedTokenizerBase

from beear.config.resolve import ResolvedConfig
from beear.data.batch import DefenseBatch
from beear.data.collate import collate_defense
from beear.data.encode import encode_defense, unlabelled
from beear.data.local import pad_id_of
from beear.data.missing_answers import complete
from beear.data.rows import AnchorRow, DefenseRow, Probe
from beear.data.steps import TrainingPlan
from beear.data.templates import Template
from beear.engine.fit import Batches, EpochOutcome, Progress, Schedule, epochs
from beear.evaluation.generate import NotFinite
from beear.evaluation.selection import SelectionMeasure
from beear.methods.base import Defense, MethodParts
from beear.methods.table import METHODS
from beear.models.decoder import Decoder
from beear.models.facts import ModelFacts
from beear.models.fused import fuse
from beear.models.loading import load_tokenizer
from beear.models.source import CheckpointSource
from beear.parallel.base import Backend, Source
from beear.parallel.choose import choose
from beear.parallel.spread import Spread


@dataclass(frozen=True)
class Training:
    """Everything that a worker needs to train, as plain data that can be pickled.

    Args:
        config: the resolved configuration.
        facts: the checkpoint.
        plan: the training data.
        spread: how weights are distributed over the workers.
        selection: defense rows that are measured after each epoch.
        anchor_selection: anchor rows that are measured after each epoch.
        hit: the hit rule of the defense data.
        probes: known triggers, measured on the selection rows for the report only; they decide nothing.
        resists: measure entrapment resistance too, with the budget of :mod:`beear.evaluation.resistance_scale`.
    """

    config: ResolvedConfig
    facts: ModelFacts
    plan: TrainingPlan
    spread: Spread
    selection: list[DefenseRow]
    anchor_selection: list[AnchorRow]
    hit: str
    probes: list[Probe] = field(default_factory=list)
    resists: bool = False


class Session:
    """Model, defense, data and measure of one worker."""

    def __init__(
        self,
        training: Training,
        backend: Backend,
        batches: Callable[[TrainingPlan, Template, int, int, torch.device], Batches],
        source: Source | None = None,
        template: Template | None = None,
    ) -> None:
        """Load the model and build everything else.

        Args:
            training: what to train.
            backend: the workers and their weights.
            batches: called with (plan, template, rank, world, device); returns the training data.
            source: the weights; by default the checkpoint's files are read.
            template: the chat template; by default it is read from the checkpoint.

        Raises:
            UserError: the checkpoint, its tokenizer or a selection row is not valid.
        """
        config = training.config
        self.training, self.backend = training, backend
        compute = compute_dtype(config.model.dtype, backend.device)
        self.template = template or Template(load_tokenizer(training.facts, config.model.chat_template))
        self.tokenizer: PreTrainedTokenizerBase = self.template.tokenizer
        source = source or CheckpointSource(training.facts, config.adapter, config.seed)
        self.model: nn.Module = backend.prepare(source, config.method.outer_lr)
        if backend.device.type == "cuda":
            fuse(self.model)
        decoder = Decoder(self.model, compute, backend.device)
        self.defense: Defense = METHODS[config.method.name].build(
            MethodParts(
                decoder,
                backend,
                config.settings,
                config.method,
                config.seed,
                training.facts.hidden_size,
                training.spread.micro_batch,
            )
        )
        self.batches = batches(training.plan, self.template, backend.rank, backend.world, backend.device)
        self.measure = SelectionMeasure(
            self.model,
            self.tokenizer,
            training.selection,
            training.anchor_selection,
            config,
            training.hit,
            backend,
            training.probes,
            compute,
            training.resists,
        )

    def fit(
        self,
        on_epoch: Callable[[EpochOutcome], None],
        first_epoch: int = 1,
        last: int | None = None,
        progress: Progress | None = None,
    ) -> None:
        """Train from ``first_epoch`` on and call ``on_epoch`` after each epoch.

        ``last``: the last epoch, if a resumed run had already set it; else the configuration's.
        """
        for outcome in self.epochs(first_epoch, last, progress):
            on_epoch(outcome)

    def epochs(self, first_epoch: int = 1, last: int | None = None, progress: Progress | None = None) -> Iterator[EpochOutcome]:
        """Yield each epoch's outcome. An epoch is trained when its outcome is asked for (:func:`beear.engine.fit.epochs`)."""
        method = self.training.config.method
        return epochs(
            self.defense,
            self.batches,
            Schedule(last or method.epochs, method.cool_epochs),
            measure=self._measured,
            first_epoch=first_epoch,
            selection=self._selection_batches() if method.early_stop else None,
            progress=progress,
        )

    def _measured(self, epoch: int) -> dict[str, float]:
        try:
            return self.measure()
        except NotFinite as error:
            raise FloatingPointError(f"after epoch {epoch} {error}") from error

    def _selection_batches(self) -> list[DefenseBatch]:
        """Return this worker's share of the selection rows in batches of the training size; every worker has as many batches."""
        plan, most = self.training.plan, self.training.config.evaluate.selection_rows
        rows = [complete(row, plan.filled, plan.refusal) for row in self.training.selection[:most]]
        encoded = [encode_defense(row, self.template, plan.max_length) for row in rows]
        shares = encoded[self.backend.rank :: self.backend.world]
        if len(shares) * self.backend.world < len(encoded):
            # If weights are sharded, all workers must make the same number of forward passes.
            shares.append(unlabelled(encoded[0]))
        pad, size = pad_id_of(self.tokenizer), plan.batch_size
        return [
            collate_defense(shares[i : i + size], pad, len(encoded)).to(self.backend.device) for i in range(0, len(shares), size)
        ]


def compute_dtype(name: str, device: torch.device) -> torch.dtype:
    """Return the dtype of forward passes. The master weights are always float32."""
    if name == "auto":
        name = "bfloat16" if device.type == "cuda" and torch.cuda.is_bf16_supported() else "float32"
    return torch.bfloat16 if name == "bfloat16" else torch.float32


def backend_of(training: Training, device: torch.device) -> Backend:
    """Return the backend of a training on ``device``."""
    return choose(training.spread, device, compute_dtype(training.config.model.dtype, device))
