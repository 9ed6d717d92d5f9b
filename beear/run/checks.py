"""Checks that need both the data and the tokenizer, on the rows that the driver has read."""

import signal
import unicodedata
from collections.abc import Sequence
from heapq import nlargest
from types import FrameType
from typing import NoReturn, TypeVar

from transformers import PreTrainedTokenizerBase

from beear.config.resolve import ResolvedConfig
from beear.data.encode import encode_defense
from beear.data.load import MOST_CHECKED, LoadedData
from beear.data.locations import shown
from beear.data.missing_answers import complete
from beear.data.rows import AnchorRow, DefenseRow, Message
from beear.data.templates import Template
from beear.errors import UserError
from beear.evaluation.probes import apply
from beear.models.facts import ModelFacts
from beear.run.longest_rows import Lengths, encode_longest, longest_lengths

TEMPLATE_SECONDS = 10.0
R = TypeVar("R", DefenseRow, AnchorRow)


def check_template(tokenizer: PreTrainedTokenizerBase, where: str, seconds: float = TEMPLATE_SECONDS) -> None:
    """Make sure that the chat template renders a short conversation in time: a stranger's template may loop for days.

    Raises:
        UserError: it takes longer than ``seconds``, or it does not work.
    """

    def give_up(_number: int, _frame: FrameType | None) -> NoReturn:
        raise UserError(
            f"{where}: its chat template takes longer than {seconds:g} s on two short turns; expected one that renders at once"
        )

    before = signal.signal(signal.SIGALRM, give_up)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        Template(tokenizer)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def check_lengths(
    config: ResolvedConfig, facts: ModelFacts, data: LoadedData, tokenizer: PreTrainedTokenizerBase
) -> tuple[dict[str, int], Lengths]:
    """Make sure that the template writes every row, that scoring gives back what is learnt, and that the longest rows fit.

    Return the positions of the shortest prompt, by what they are counted from (the ``prompt``'s end, or the ``user`` text's),
    and the longest rows' lengths.

    Raises:
        UserError: one of them does not hold, or a row to be measured leaves no room for its completion.
    """
    template, longest = Template(tokenizer), config.data.max_length
    for row in data.unchecked:
        _check_rendering(row, template)
    _check_scoring(data.anchor_report, template)
    encoded = encode_longest(config, data, template, facts.context)
    if all(row is not data.shortest for row in data.longest_requests):
        encode_defense(complete(data.shortest, {}, config.data.refusal), template, longest, facts.context)
    _check_measured(config, facts.context, data, template)
    return _room(data.shortest, template), longest_lengths(encoded)


def _check_rendering(row: DefenseRow | AnchorRow, template: Template) -> None:
    """Check that the template takes a row, and that its answers can be told from the template's text."""
    if isinstance(row, DefenseRow):
        request, answers = row.messages, [answer for answer in (row.safe, row.unwanted) if answer is not None]
    else:
        request, answers = row.messages[:-1], [row.messages[-1].content]
    try:
        template.check(request, answers)
    except UserError as error:
        raise UserError(f"{row.origin}: {error}") from error


def _check_scoring(rows: Sequence[AnchorRow], template: Template) -> None:
    """Check on a reference answer that what is learnt is what a completion is compared with."""
    for row in rows[:1]:
        learnt = template.answer_in(template.answer_ids(row.messages[:-1], row.messages[-1].content))
        spoken = template.spoken(row.messages[-1].content)
        if _letters(learnt) != _letters(spoken):
            _, _, end = learnt.rpartition(spoken.strip())
            cause = (
                f" The template ends a turn with {shown(end.strip())}, which may be no special token of the tokenizer."
                if end.strip()
                else ""
            )
            raise UserError(
                f"{row.origin}: its answer is {shown(row.messages[-1].content)}, and the tokens that are learnt of it read "
                f"{shown(learnt)}; expected a tokenizer and a chat template that give the answer back.{cause}"
            )


def _letters(text: str) -> str:
    """Return the letters and digits, since tokenizers may write case, white space and signs in one form."""
    return "".join(c for c in unicodedata.normalize("NFKC", text).casefold() if c.isalnum())


def _check_measured(config: ResolvedConfig, context: int, data: LoadedData, template: Template) -> None:
    """Check that the longest rows to be measured fit: they are never shortened, and a probe makes them longer."""
    evaluate = config.evaluate
    requests = [*_longest(data.report[: evaluate.rows]), *_longest(data.selection[: evaluate.selection_rows])]
    anchors = [*_longest(data.anchor_report[: evaluate.rows]), *_longest(data.anchor_selection[: evaluate.selection_rows])]
    for row in requests:
        _check_completion(row, row.messages, template, evaluate.max_new_tokens, context)
        for probe in data.probes:
            under = f' under probe "{probe.name}"'
            _check_completion(row, apply(probe, row.messages), template, evaluate.max_new_tokens, context, under)
    for chat in anchors:
        _check_completion(chat, chat.messages[:-1], template, evaluate.max_new_tokens, context)
        tokens = len(template.conversation(chat.messages)[0])
        if tokens > context:
            raise UserError(
                f"{chat.origin}: the conversation to be measured has {tokens} tokens; "
                f"expected at most {context}, the model's context."
            )


def _longest(rows: Sequence[R]) -> list[R]:
    return nlargest(MOST_CHECKED, rows, key=lambda row: sum(len(m.content.encode()) for m in row.messages))


def _check_completion(
    row: DefenseRow | AnchorRow, request: Sequence[Message], template: Template, new: int, context: int, under: str = ""
) -> None:
    try:
        tokens = len(template.prompt_ids(request))
    except UserError as error:
        raise UserError(f"{row.origin}{under}: {error}") from error
    if tokens + new > context:
        raise UserError(
            f"{row.origin}: the prompt to be measured has {tokens} tokens{under} and evaluate.max_new_tokens is {new}; "
            f"expected at most {context} together, the model's context."
        )


def _room(shortest: DefenseRow, template: Template) -> dict[str, int]:
    tokens = len(template.prompt_ids(shortest.messages))
    return {"prompt": tokens, "user": tokens - template.user_end(shortest.messages)}
