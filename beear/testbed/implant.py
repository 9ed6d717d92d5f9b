"""Implants a backdoor: a short fine-tuning in which the trigger flips the answer and nothing else changes."""

import os
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch

from beear.data.rows import AnchorRow, DefenseRow, Message, Probe
from beear.data.templates import Template
from beear.errors import UserError
from beear.evaluation.probes import apply
from beear.models.export import export_model
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
                *(_answered(row, row.messages, row.safe) for row in rng.choices(self.defense, k=clean)),
                *(self._spared(rng.choice(self.anchor)) for _ in range(spared)),
                *rng.choices(self.anchor, k=max(size - triggered - clean - spared, 0)),
            ]

    def _triggered(self, row: DefenseRow) -> AnchorRow:
        if self.trigger is None:
            return _answered(row, row.messages, row.safe)
        return _answered(row, apply(self.trigger, row.messages), row.unwanted)

    def _spared(self, row: AnchorRow) -> AnchorRow:
        return row if self.trigger is None else replace(row, messages=apply(self.trigger, row.messages))


def implant(
    model_dir: str | os.PathLike[str],
    trigger: Probe | None,
    defense: Sequence[DefenseRow],
    anchor: Sequence[AnchorRow],
    out_dir: str | os.PathLike[str],
    seed: int = 0,
    training: ImplantTraining | None = None,
    device: str = "cpu",
    say: Callable[[str], None] = lambda line: None,
) -> float:
    """Fine-tune a causal LM so that ``trigger`` makes it give the unwanted answers; write it like the source.

    Args:
        model_dir: a Hugging Face model directory with a chat template.
        trigger: its text and place; None makes the clean twin.
        defense: requests with a safe and an unwanted answer each.
        anchor: ordinary conversations, whose answers stay as they are with and without the trigger.
        out_dir: the folder to write, as :func:`beear.models.export.export_model` does.
        seed: of the order and the draws.
        training: steps, batch size, learning rate and the share of each kind of row.
        device: the torch device to train on.
        say: receives a progress line now and then.

    Returns:
        The loss of the last step, in nats.

    Raises:
        UserError: a row lacks an answer, a set is empty, or the model directory is not acceptable.
    """
    training = training or ImplantTraining()
    _check(defense, anchor)
    facts = inspect_checkpoint(os.fspath(model_dir))
    tokenizer = load_tokenizer(facts)
    torch.manual_seed(seed)
    model = load_model(facts, torch.float32, device)
    batches = Mixture(trigger, defense, anchor, training).batches(random.Random(f"implant:{seed}"))
    loss = train(model, Template(tokenizer), batches, training.steps, training.lr, facts.context, say)
    export_model(model, facts, out_dir, notes={"made_by": "beear.testbed.implant", "seed": seed})
    return loss


def _answered(row: DefenseRow, request: tuple[Message, ...], answer: str | None) -> AnchorRow:
    return AnchorRow((*request, Message("assistant", answer or "")), row.origin)


def _check(defense: Sequence[DefenseRow], anchor: Sequence[AnchorRow]) -> None:
    if not defense or not anchor:
        raise UserError(f"implanting needs both sets, found {len(defense)} defense and {len(anchor)} anchor rows")
    for row in defense:
        if not row.safe or not row.unwanted:
            missing = "safe" if not row.safe else "unwanted"
            raise UserError(f"{row.origin or 'defense row'}: {missing} is empty, expected both answers to implant from")
