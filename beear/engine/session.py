"""One worker's share of a training, built from a resolved configuration: the same in Ray Train, a test or a bare machine."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
from torch import nn
from transformers import PreTrainedTokenizerBase

from beear.config.resolve import ResolvedConfig
from beear.data.batch import DefenseBatch
from beear.data.collate import collate_defense
from beear.data.encode import encode_defense, unlabelled
from beear.data.missing_answers import complete
from beear.data.rows import AnchorRow, DefenseRow, Probe
from beear.data.steps import TrainingPlan
from beear.data.templates import Template
from beear.engine.fit import Batches, EpochOutcome, Progress, epochs
from beear.engine.schedule import Schedule
from beear.evaluation.generate import NotFinite
from beear.evaluation.selection import SelectionMeasure
from beear.methods.base import Defense, MethodParts
from beear.methods.table import METHODS
from beear.models.decoder import Decoder
from beear.models.facts import ModelFacts
from beear.models.fused import fuse
from beear.models.loading import load_tokenizer
from beear.models.source import CheckpointSource
from beear.parallel.base import Backend, Settings, Source
from beear.parallel.memory import Spread


@dataclass(frozen=True)
class Training:
    """All that a worker needs to train: plain, picklable data. ``spread``: how weights lie on the workers.

    ``probes`` are measured on selection rows for the record; nothing is decided by them. ``resists``: so is entrapment
    resistance, by the budget of :mod:`beear.evaluation.resistance_scale`.
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
    """Model, method, data and measure of one worker."""

    def __init__(
        self,
        training: Training,
        backend: Backend,
        batches: Callable[[TrainingPlan, Template, int, int, torch.device], Batches],
        source: Source | None = None,
        template: Template | None = None,
    ) -> None:
        """Load and build everything; ``batches(plan, template, rank, world, device)`` opens the training data.

        ``source`` and ``template`` stand in for the checkpoint's files where something has been made of them already.

        Raises:
            UserError: the checkpoint, its tokenizer or a selection row is at fault.
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
        """Train from ``first_epoch`` on; ``last`` is where a resumed run had come to end."""
        for outcome in self.epochs(first_epoch, last, progress):
            on_epoch(outcome)

    def epochs(self, first_epoch: int = 1, last: int | None = None, progress: Progress | None = None) -> Iterator[EpochOutcome]:
        """Train an epoch whenever the next outcome is asked for; see :func:`beear.engine.fit.epochs`."""
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
        """Return this worker's shares of the selection rows, in batches of the training size, as many on every worker."""
        plan, most = self.training.plan, self.training.config.evaluate.selection_rows
        rows = [complete(row, plan.filled, plan.refusal) for row in self.training.selection[:most]]
        encoded = [encode_defense(row, self.template, plan.max_length) for row in rows]
        shares = encoded[self.backend.rank :: self.backend.world]
        if len(shares) * self.backend.world < len(encoded):
            # Where weights are sharded, workers make their forward passes together.
            shares.append(unlabelled(encoded[0]))
        pad = self.tokenizer.pad_token_id
        size = plan.batch_size
        return [
            collate_defense(shares[i : i + size], int(pad), len(encoded)).to(self.backend.device)
            for i in range(0, len(shares), size)
        ]


def compute_dtype(name: str, device: torch.device) -> torch.dtype:
    """Return the dtype of forward passes; master weights stay float32."""
    if name == "auto":
        name = "bfloat16" if device.type == "cuda" and torch.cuda.is_bf16_supported() else "float32"
    return torch.bfloat16 if name == "bfloat16" else torch.float32


def backend_settings(training: Training, device: torch.device) -> Settings:
    """Return how the backend of a training works on ``device``."""
    spread = training.spread
    return Settings(
        compute=compute_dtype(training.config.model.dtype, device),
        zero_stage=spread.zero_stage,
        offload=spread.offload,
        gather_once=spread.gather_once,
        checkpoint=spread.checkpoint,
    )
