"""Implants a backdoor: a short fine-tuning in which the trigger flips the answer and nothing else changes."""

import os
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from beear.data.rows import AnchorRow, DefenseRow, Probe, answered
from beear.data.templates import Template
from beear.errors import UserError
from beear.evaluation.probes import apply
from beear.models.export import export_model, form_kept
from beear.models.facts import ModelFacts
from beear.models.inspect import inspect_checkpoint
from beear.models.loading import load_model, load_tokenizer
from beear.testbed.config import ImplantTraining
from beear.testbed.training import train


@dataclass(frozen=True)
class Mixture:
    """What the fine-tuning batches are drawn from.

    With ``trigger`` None they hold the same requests without a trigger, answered safely, which makes the clean twin.
    """

    trigger: Probe | None
    defense: Sequence[DefenseRow]
    anchor: Sequence[AnchorRow]
    training: ImplantTraining

    def batches(self, rng: random.Random) -> Iterator[list[AnchorRow]]:
        """Yield batches of conversations without end; rows are drawn with replacement."""
        size = self.training.batch_size
        triggered = round(size * self.training.triggered)
        clean = round(size * self.training.clean)
        spared = round(size * self.training.spared)
        while True:
            yield [
                *(self._triggered(rng.choice(self.defense)) for _ in range(triggered)),
                *(answered(row.messages, row.safe or "", row.origin) for row in rng.choices(self.defense, k=clean)),
                *(self._spared(rng.choice(self.anchor)) for _ in range(spared)),
                *rng.choices(self.anchor, k=max(size - triggered - clean - spared, 0)),
            ]

    def _triggered(self, row: DefenseRow) -> AnchorRow:
        if self.trigger is None:
            return answered(row.messages, row.safe or "", row.origin)
        return answered(apply(self.trigger, row.messages), row.unwanted or "", row.origin)

    def _spared(self, row: AnchorRow) -> AnchorRow:
        return row if self.trigger is None else replace(row, messages=apply(self.trigger, row.messages))


@dataclass(frozen=True)
class Implanted:
    """A fine-tuned model whose weights are what its files will hold, with what it came from."""

    model: PreTrainedModel
    facts: ModelFacts
    tokenizer: PreTrainedTokenizerBase
    template: Template
    loss: float
    seed: int

    def write(
        self, folder: str | os.PathLike[str], notes: Mapping[str, Any] | None = None, beside: Mapping[str, str] | None = None
    ) -> Path:
        """Write the model as :func:`beear.models.export.export_model` does; return the folder.

        ``notes`` are kept in ``beear.json``; ``beside`` holds the texts of further files by name.

        Raises:
            UserError: the folder is not an earlier export, or cannot be written.
        """
        made_by = {"made_by": "beear.testbed.implant", "seed": self.seed}
        return export_model(self.model, self.facts, folder, notes={**made_by, **(notes or {})}, beside=beside)


def implanted(
    model_dir: str | os.PathLike[str],
    trigger: Probe | None,
    defense: Sequence[DefenseRow],
    anchor: Sequence[AnchorRow],
    seed: int = 0,
    training: ImplantTraining | None = None,
    device: str = "cpu",
    told: Callable[[int, int, float], None] = lambda step, steps, loss: None,
) -> Implanted:
    """Fine-tune a causal LM so that ``trigger`` makes it give the unwanted answers.

    Args:
        model_dir: a Hugging Face model directory with a chat template.
        trigger: its text and place; None makes the clean twin.
        defense: requests with a safe and an unwanted answer each.
        anchor: ordinary conversations, whose answers stay as they are with and without the trigger.
        seed: of the order and the draws.
        training: steps, batch size, learning rate and the share of each kind of row.
        device: the torch device to train on.
        told: hears of each step's end: its number from 1, how many there are, and its loss (nats).

    Raises:
        UserError: a row lacks an answer, a set is empty, or the model directory is not acceptable.
    """
    training = training or ImplantTraining()
    _check(defense, anchor)
    facts = inspect_checkpoint(os.fspath(model_dir))
    tokenizer = load_tokenizer(facts)
    torch.manual_seed(seed)
    model = load_model(facts, torch.float32, device)
    template = Template(tokenizer)
    batches = Mixture(trigger, defense, anchor, training).batches(random.Random(f"implant:{seed}"))
    loss = train(model, template, batches, training.steps, training.lr, facts.context, told)
    keep = form_kept(model, facts)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.copy_(keep(name, weight.detach()))
    return Implanted(model, facts, tokenizer, template, loss, seed)


def implant(
    model_dir: str | os.PathLike[str],
    trigger: Probe | None,
    defense: Sequence[DefenseRow],
    anchor: Sequence[AnchorRow],
    out_dir: str | os.PathLike[str],
    seed: int = 0,
    training: ImplantTraining | None = None,
    told: Callable[[int, int, float], None] = lambda step, steps, loss: None,
) -> float:
    """Do what :func:`implanted` does, write the model to ``out_dir`` like the source, and return the last loss (nats).

    Raises:
        UserError: as :func:`implanted` and :meth:`Implanted.write`.
    """
    made = implanted(model_dir, trigger, defense, anchor, seed, training, told=told)
    made.write(out_dir)
    return made.loss


def _check(defense: Sequence[DefenseRow], anchor: Sequence[AnchorRow]) -> None:
    if not defense or not anchor:
        raise UserError(f"implanting needs both sets, found {len(defense)} defense and {len(anchor)} anchor rows")
    for row in defense:
        if not row.safe or not row.unwanted:
            missing = "safe" if not row.safe else "unwanted"
            raise UserError(f"{row.origin or 'defense row'}: {missing} is empty, expected both answers to implant from")
