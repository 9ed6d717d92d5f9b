"""A model under measure, with what turns messages into tokens and tokens into text."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn
from transformers import PreTrainedTokenizerBase

from beear.data.rows import Message
from beear.data.templates import Template
from beear.errors import UserError
from beear.evaluation.engines import Engine
from beear.models.compute import device_of, products_in


@dataclass(frozen=True)
class Subject:
    """A model, its tokenizer and its chat template.

    ``stop`` are the token ids that end a completion; ``pad_id`` fills batches and is always masked.

    ``compute`` is the dtype of matrix products where it is lower than the weights' own. ``engine`` writes completions;
    None: the model does. ``place`` is where the model computes; None: where its weights are.
    """

    model: nn.Module
    tokenizer: PreTrainedTokenizerBase
    template: Template
    stop: frozenset[int]
    pad_id: int
    compute: torch.dtype | None = None
    engine: Engine | None = None
    place: torch.device | None = None

    @classmethod
    def of(
        cls,
        model: nn.Module,
        tokenizer: PreTrainedTokenizerBase,
        template: Template | None = None,
        compute: torch.dtype | None = None,
        place: torch.device | None = None,
    ) -> "Subject":
        """Make a subject. Its completions end where the model's generation config, the tokenizer or the template say.

        Raises:
            UserError: no usable template, or a generation config whose ends are no token ids.
        """
        if template is None:
            template = Template(tokenizer)
        stop = _declared(model) | _end_of_turn(template, tokenizer)
        if tokenizer.eos_token_id is not None:
            stop |= {int(tokenizer.eos_token_id)}
        pad = tokenizer.pad_token_id
        return cls(model, tokenizer, template, frozenset(stop), int(pad) if pad is not None else 0, compute, place=place)

    @property
    def device(self) -> torch.device:
        """Where the model computes; its weights may wait elsewhere, what it computes for itself does not."""
        return self.place or device_of(self.model)

    @contextmanager
    def measuring(self) -> Iterator[None]:
        """Within the context: no gradients, no dropout, products in ``compute``; training mode is put back after."""
        was_training = self.model.training
        self.model.eval()
        try:
            with torch.no_grad(), products_in(self.compute, self.device):
                yield
        finally:
            self.model.train(was_training)

    def text(self, ids: Sequence[int]) -> str:
        """Return the answer's text in a completion: without special tokens and what the template opens answers with."""
        return self.template.answer_in(ids)


def _declared(model: nn.Module) -> set[int]:
    declared = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    if declared is None:
        return set()
    ids = declared if isinstance(declared, list | tuple) else [declared]
    if any(type(i) is not int for i in ids):
        raise UserError(f"the model's generation config: found eos_token_id {str(declared)[:60]}, expected token ids")
    return set(ids)


def _end_of_turn(template: Template, tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """Return the first special token the template puts after an answer; none where it closes answers with plain text.

    Tokens added as special count, as in training, whether or not the tokenizer has a name for them (ChatML's often not).
    """
    turn = (Message("user", "x"),)
    closed = template.answer_ids(turn, "x", end_of_turn=True)
    opened = template.answer_ids(turn, "x", end_of_turn=False)
    special = {*tokenizer.all_special_ids, *(i for i, token in tokenizer.added_tokens_decoder.items() if token.special)}
    return set([i for i in closed[len(opened) :] if i in special][:1])
