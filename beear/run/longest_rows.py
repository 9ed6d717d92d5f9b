"""The longest rows in tokens: the memory table is made for them."""

from dataclasses import dataclass

from beear.config.resolve import ResolvedConfig
from beear.data.encode import EncodedAnchor, EncodedDefense, encode_anchor, encode_defense
from beear.data.load import LoadedData
from beear.data.missing_answers import complete
from beear.data.templates import Template
from beear.evaluation.engines import GPU_SHARE
from beear.evaluation.resistance import FIT_BATCH
from beear.methods.method import Needs
from beear.parallel.measuring import Measuring
from beear.parallel.memory import Work

# Where no row was read, this share of the longest row allowed is taken for its answer.
ANSWER_SHARE = 0.25


@dataclass(frozen=True)
class Lengths:
    """Tokens of the longest prompt, answers and conversation; ``labelled`` columns of the conversation reach the head."""

    prompt: int
    safe: int
    unwanted: int
    text: int
    labelled: int

    def sentence(self) -> str:
        """Return the lengths in one line."""
        return (
            f"longest rows in tokens: prompt {self.prompt}, safe answer {self.safe}, unwanted answer {self.unwanted}, "
            f"conversation {self.text}"
        )

    def work(self, config: ResolvedConfig, needs: Needs, gpu: bool) -> Work:
        """Return what a step of a method with such ``needs`` computes in all, on GPUs or on CPUs."""
        inner = needs.inner
        return Work(
            config.method.batch_size,
            self.prompt,
            self.safe,
            self.unwanted,
            self.text,
            self.labelled,
            inner.layer if inner else None,
            untouched=max(0, self.prompt - inner.length) if inner and inner.length is not None else 0,
            inner_batches=needs.inner_batches if inner else 0,
            half=in_bfloat16(config, gpu),
            fast=inner is not None and inner.fast,
            passes=needs.passes,
        )

    def measuring(self, config: ResolvedConfig, gpu: bool) -> Measuring:
        """Return what a process that measures computes, on a GPU or on a CPU."""
        evaluate, half = config.evaluate, in_bfloat16(config, gpu)
        return Measuring(
            min(evaluate.batch_size, evaluate.rows or evaluate.batch_size),
            self.prompt,
            evaluate.max_new_tokens,
            self.text,
            self.labelled,
            half,
            self._attack(config, half) if evaluate.resistance.enabled else None,
            beside=GPU_SHARE if evaluate.engine == "vllm" else 0.0,
        )

    def _attack(self, config: ResolvedConfig, half: bool) -> Work:
        """Return a step of the fresh attack that keeps most: at the earliest layer, whatever its placement spares."""
        budget = config.evaluate.resistance
        fitted = budget.rows // 2
        # Half of the rows are held out, and their fixed parts are kept too.
        batches = -(-fitted // FIT_BATCH) + -(-(budget.rows - fitted) // FIT_BATCH)
        return Work(
            min(FIT_BATCH, fitted),
            self.prompt,
            self.safe,
            self.unwanted,
            self.text,
            self.labelled,
            min(budget.at_layers),
            inner_batches=batches,
            half=half,
        )


def in_bfloat16(config: ResolvedConfig, gpu: bool) -> bool:
    """Say whether matrix products are made in bfloat16 rather than in float32."""
    return config.model.dtype == "bfloat16" or (config.model.dtype == "auto" and gpu)


@dataclass(frozen=True)
class EncodedRows:
    """The longest requests and conversations that the driver saw, cut as training cuts them."""

    requests: list[EncodedDefense]
    chats: list[EncodedAnchor]


def encode_longest(config: ResolvedConfig, data: LoadedData, template: Template, context: int) -> EncodedRows:
    """Encode the longest rows that the driver saw, once, for every check and table that is made of them.

    Raises:
        UserError: a row cannot be encoded, or exceeds the model's ``context`` (tokens).
    """
    longest, refusal = config.data.max_length, config.data.refusal
    return EncodedRows(
        [encode_defense(complete(row, {}, refusal), template, longest, context) for row in data.longest_requests],
        [encode_anchor(row, template, longest, context) for row in data.longest_chats],
    )


def longest_lengths(rows: EncodedRows) -> Lengths:
    """Return the lengths of the longest rows."""
    prompt, safe, unwanted = (max(lengths) for lengths in zip(*(row.lengths for row in rows.requests), strict=True))
    # Training mixes clean requests with their safe answers into the conversations.
    text = max([prompt + safe, *(len(chat.ids) for chat in rows.chats)])
    earliest = min((chat.labelled.index(True) for chat in rows.chats), default=prompt)
    return Lengths(prompt, safe, unwanted, text, text - min(earliest, prompt))


def assumed_lengths(max_length: int) -> Lengths:
    """Return the lengths of rows that are as long as they may be."""
    answer = max(1, round(ANSWER_SHARE * max_length))
    return Lengths(max_length - answer, answer, answer, max_length, answer)
