"""A model under measure, with what turns messages into tokens and tokens into text."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn
from transformers import PreTrainedTokenizerBase

from beear.data.rows import Message
from beear.data.templates import Template


@dataclass(frozen=True)
class Subject:
    """``stop`` are the token ids that end a completion; ``pad_id`` fills batches and is always masked.

    ``compute`` is the dtype of matrix products where it is lower than the weights' own.
    """

    model: nn.Module
    tokenizer: PreTrainedTokenizerBase
    template: Template
    stop: frozenset[int]
    pad_id: int
    compute: torch.dtype | None = None

    @classmethod
    def of(
        cls,
        model: nn.Module,
        tokenizer: PreTrainedTokenizerBase,
        template: Template | None = None,
        compute: torch.dtype | None = None,
    ) -> "Subject":
        """Gather a subject; it stops where the model's generation config, the tokenizer or the template say."""
        if template is None:
            template = Template(tokenizer)
        stop = _declared(model) | _end_of_turn(template, tokenizer)
        if tokenizer.eos_token_id is not None:
            stop |= {int(tokenizer.eos_token_id)}
        pad = tokenizer.pad_token_id
        return cls(model, tokenizer, template, frozenset(stop), int(pad) if pad is not None else 0, compute)

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return next(self.model.parameters()).device

    @contextmanager
    def measuring(self) -> Iterator[None]:
        """Within the context: no gradients, no dropout, products in ``compute``; training mode is put back after."""
        was_training = self.model.training
        lower = self.compute in (torch.bfloat16, torch.float16)
        self.model.eval()
        try:
            with torch.no_grad(), torch.autocast(self.device.type, dtype=self.compute, enabled=lower):
                yield
        finally:
            self.model.train(was_training)

    def text(self, ids: Sequence[int]) -> str:
        """Return the text of a completion, without special tokens."""
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=True))


def _declared(model: nn.Module) -> set[int]:
    declared = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    if declared is None:
        return set()
    return {int(i) for i in declared} if isinstance(declared, list | tuple) else {int(declared)}


def _end_of_turn(template: Template, tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """Return the first token the template puts after an answer, where it is one that no text can contain."""
    turn = (Message("user", "x"),)
    closed = template.answer_ids(turn, "x", end_of_turn=True)
    opened = template.answer_ids(turn, "x", end_of_turn=False)
    after = closed[len(opened) : len(opened) + 1]
    return set(after) & set(tokenizer.all_special_ids)
