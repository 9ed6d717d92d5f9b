"""Checks that need both the data and the tokenizer, on the rows that the driver has read."""

import signal
import unicodedata
from collections.abc import Sequence
from types import FrameType
from typing import NoReturn

from transformers import PreTrainedTokenizerBase

from beear.config.resolve import ResolvedConfig
from beear.data.encode import encode_anchor, encode_defense
from beear.data.load import LoadedData
from beear.data.locations import shown
from beear.data.missing_answers import complete
from beear.data.rows import AnchorRow, DefenseRow, Message
from beear.data.templates import Template
from beear.errors import UserError
from beear.evaluation.probes import apply
from beear.models.facts import ModelFacts
from beear.run.longest_rows import Lengths, encode_longest, longest_lengths

TEMPLATE_SECONDS = 10.0
# A probe may add a system turn, and the template's marks of such a turn take fewer bytes than this.
TURN_BYTES = 256


def check_template(tokenizer: PreTrainedTokenizerBase, where: str, seconds: float = TEMPLATE_SECONDS) -> list[str]:
    """Make sure that the chat template renders a short conversation in time: a stranger's template may loop for days.

    Return what must be said of it.

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
        template = Template(tokenizer)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    if template.marks_ends:
        return []
    end = shown(tokenizer.eos_token) if tokenizer.eos_token else "another end"
    return [
        f"{where}: its chat template ends no answer with a special token, so nothing is learnt of where an answer ends; a "
        f"completion goes on to evaluate.max_new_tokens unless the model writes {end}"
    ]


def check_lengths(
    config: ResolvedConfig, facts: ModelFacts, data: LoadedData, tokenizer: PreTrainedTokenizerBase, trains: bool = True
) -> tuple[dict[str, int], Lengths]:
    """Make sure that the template writes every row, that scoring gives back what is learnt, and that every row fits.

    Return the positions of the shortest prompt, by what they are counted from (the ``prompt``'s end, or the ``user`` text's),
    and the longest rows' lengths. ``trains`` False: training rows need not fit, apart from the longest.

    Raises:
        UserError: one of them does not hold, or a row to be measured leaves no room for its completion.
    """
    template, longest = Template(tokenizer), config.data.max_length
    for row in data.unchecked:
        _check_rendering(row, template)
        if trains and (isinstance(row, DefenseRow) or data.anchor.split(row) == "train"):
            _check_fit(row, config, template, facts.context)
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


def _check_fit(row: DefenseRow | AnchorRow, config: ResolvedConfig, template: Template, context: int) -> None:
    """Encode a row if it may not fit. That takes long, so it is left out where the bytes say enough, or the tokens as they are.

    A token holds a byte at least, and of what exceeds ``data.max_length`` the longest user turn can be cut.
    """
    longest = config.data.max_length
    answers: tuple[str, ...]
    if isinstance(row, DefenseRow):
        row = complete(row, {}, config.data.refusal)
        request, answers = row.messages, (row.safe or "", row.unwanted or "")
    else:
        request, answers = row.messages[:-1], (row.messages[-1].content,)
    bytes_at_most = sum(map(_size, (template.prompt_text(request), template.opening, template.end_of_turn)))
    bytes_at_most += max(map(_size, answers))
    spare = max(_size(m.content) for m in request if m.role == "user")
    if bytes_at_most <= context and bytes_at_most - spare <= longest:
        return
    try:
        tokens = len(template.prompt_ids(request)) + max(len(template.answer_ids(request, answer)) for answer in answers)
    except UserError as error:
        raise UserError(f"{row.origin}: {error}") from error
    if tokens <= longest:
        return
    if isinstance(row, DefenseRow):
        encode_defense(row, template, longest, context)
    else:
        encode_anchor(row, template, longest, context)


def _size(text: str) -> int:
    return len(text.encode())


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
    """Check that the rows to be measured fit: they are never shortened, and a probe makes them longer."""
    evaluate, new = config.evaluate, config.evaluate.max_new_tokens
    requests = [*data.report[: evaluate.rows], *data.selection[: evaluate.selection_rows]]
    for number, row in enumerate(requests):
        prompt = _size(template.prompt_text(row.messages))
        if prompt + new > context:
            _check_completion(row, row.messages, template, new, context)
        for probe in data.probes:
            request = apply(probe, row.messages)
            longest = prompt + _content(request) - _content(row.messages) + TURN_BYTES
            # The first row shows whether the template and the tokenizer take the probe at all.
            if number == 0 or longest + new > context:
                _check_completion(row, request, template, new, context, f' under probe "{probe.name}"')
    for chat in (*data.anchor_report[: evaluate.rows], *data.anchor_selection[: evaluate.selection_rows]):
        prompt = _size(template.prompt_text(chat.messages[:-1]))
        if prompt + new > context:
            _check_completion(chat, chat.messages[:-1], template, new, context)
        if prompt + _content(chat.messages[-1:]) + TURN_BYTES <= context:
            continue
        tokens = len(template.conversation(chat.messages)[0])
        if tokens > context:
            raise UserError(
                f"{chat.origin}: the conversation to be measured has {tokens} tokens; "
                f"expected at most {context}, the model's context."
            )


def _content(messages: Sequence[Message]) -> int:
    return sum(_size(m.content) for m in messages)


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
