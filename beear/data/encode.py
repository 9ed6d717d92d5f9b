"""Rows to token ids and labels. An answer is never cut: where a row is too long, the user's text is shortened."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from beear.data.locations import Where
from beear.data.rows import AnchorRow, DefenseRow, Message
from beear.data.templates import Template
from beear.errors import UserError

SHORTENING_TRIES = 24


@dataclass(frozen=True)
class EncodedDefense:
    """One request: its prompt's ids [P], and for each answer the ids, labels and differing-token marks [R].

    ``user_end`` is the number of template tokens between the user text's end and the prompt's end.
    """

    prompt_ids: list[int]
    user_end: int
    safe_ids: list[int]
    safe_labelled: list[bool]
    safe_differs: list[bool]
    unwanted_ids: list[int]
    unwanted_labelled: list[bool]
    unwanted_differs: list[bool]

    @property
    def lengths(self) -> tuple[int, ...]:
        """Tokens of each part that a batch pads on its own: prompt, safe answer, unwanted answer."""
        return len(self.prompt_ids), len(self.safe_ids), len(self.unwanted_ids)


@dataclass(frozen=True)
class EncodedAnchor:
    """One conversation's ids and labels [T]."""

    ids: list[int]
    labelled: list[bool]

    @property
    def lengths(self) -> tuple[int, ...]:
        """Tokens of the conversation, the one part that a batch pads."""
        return (len(self.ids),)


def unlabelled(row: EncodedDefense) -> EncodedDefense:
    """Return the row without labels: it takes part in a forward pass and counts in no loss."""
    safe, unwanted = [False] * len(row.safe_ids), [False] * len(row.unwanted_ids)
    return replace(row, safe_labelled=safe, safe_differs=safe, unwanted_labelled=unwanted, unwanted_differs=unwanted)


def encode_defense(row: DefenseRow, template: Template, max_length: int, context: int | None = None) -> EncodedDefense:
    """Return a row that has both answers in tokens: at most ``max_length`` of them for the prompt with either answer.

    Raises:
        UserError: prompt and answer exceed the model's ``context``, an answer leaves no room for any prompt, or an
            answer has no token; the sentence names the row's file and line.
    """
    assert row.safe is not None and row.unwanted is not None, "answers are filled in before encoding"
    answers = ((row.safe, True), (row.unwanted, not row.unwanted_is_prefix))
    messages, prompt, (safe, unwanted) = _fitted(row.messages, answers, template, max_length, context, row.origin)
    safe_differs, unwanted_differs = differing(safe, unwanted)
    return EncodedDefense(
        prompt_ids=prompt,
        user_end=template.user_end(messages),
        safe_ids=safe,
        safe_labelled=[True] * len(safe),
        safe_differs=safe_differs,
        unwanted_ids=unwanted,
        unwanted_labelled=[True] * len(unwanted),
        unwanted_differs=unwanted_differs,
    )


def encode_anchor(row: AnchorRow, template: Template, max_length: int, context: int | None = None) -> EncodedAnchor:
    """Return a conversation in tokens, with every assistant turn labelled. One that is too long loses its oldest turns first.

    Raises:
        UserError: as for :func:`encode_defense`.
    """
    ids, labelled = _labelled(row.messages, template, row.origin)
    if len(ids) > max_length:
        messages = _without_old_turns(row.messages, template, max_length)
        answers = ((messages[-1].content, True),)
        shorter, _, _ = _fitted(messages[:-1], answers, template, max_length, context, row.origin)
        ids, labelled = _labelled((*shorter, messages[-1]), template, row.origin)
    if not any(labelled):
        raise UserError(f"{row.origin}: no assistant token is labelled; expected at least one.")
    return EncodedAnchor(ids, labelled)


def differing(first: Sequence[int], second: Sequence[int]) -> tuple[list[bool], list[bool]]:
    """Mark the tokens outside the two answers' common start and end. An answer without any is marked throughout.

    >>> differing([1, 2, 3, 9], [1, 5, 9])
    ([False, True, True, False], [False, True, False])
    """
    shortest, start, end = min(len(first), len(second)), 0, 0
    while start < shortest and first[start] == second[start]:
        start += 1
    while end < shortest - start and first[-1 - end] == second[-1 - end]:
        end += 1
    return _marks(len(first), start, end), _marks(len(second), start, end)


def _marks(length: int, start: int, end: int) -> list[bool]:
    marks = [start <= i < length - end for i in range(length)]
    return marks if any(marks) else [True] * length


def _labelled(messages: Sequence[Message], template: Template, origin: Where | str) -> tuple[list[int], list[bool]]:
    try:
        template.check_spoken(messages[-1].content)
        return template.conversation(messages)
    except UserError as error:
        raise UserError(f"{origin}: {error}") from error


def _fitted(
    messages: Sequence[Message],
    answers: Sequence[tuple[str, bool]],
    template: Template,
    max_length: int,
    context: int | None,
    origin: Where | str,
) -> tuple[tuple[Message, ...], list[int], list[list[int]]]:
    """Return messages, prompt ids and answer ids that fit, with the longest user turn shortened as far as needed."""
    messages = tuple(messages)
    for _ in range(SHORTENING_TRIES):
        try:
            for answer, _ in answers:
                template.check_spoken(answer)
            prompt = template.prompt_ids(messages)
            coded = [template.answer_ids(messages, answer, ends) for answer, ends in answers]
        except UserError as error:
            raise UserError(f"{origin}: {error}") from error
        if any(not ids for ids in coded):
            raise UserError(f"{origin}: an answer has no token left to label; expected at least one.")
        longest = max(map(len, coded))
        if len(prompt) + longest <= max_length:
            return messages, prompt, coded
        _check_context(len(prompt), longest, context, origin)
        shorter = _shortened(messages, len(prompt), len(prompt) + longest - max_length)
        if shorter is None:
            break
        messages, context = shorter, None
    raise UserError(
        f"{origin}: the answer has {longest} tokens and leaves no room for the prompt in data.max_length={max_length}; "
        "expected a shorter answer or a larger --data.max_length."
    )


def _check_context(prompt: int, answer: int, context: int | None, origin: Where | str) -> None:
    if context is not None and prompt + answer > context:
        raise UserError(
            f"{origin}: the prompt has {prompt} tokens and its answer {answer}; "
            f"expected at most {context} together, the model's context."
        )


def _shortened(messages: tuple[Message, ...], prompt_tokens: int, excess: int) -> tuple[Message, ...] | None:
    """Cut the longest user turn in its middle, since its start and its end say what is asked; None: nothing is left to cut."""
    at = max((i for i, m in enumerate(messages) if m.role == "user"), key=lambda i: len(messages[i].content))
    content = messages[at].content
    characters = sum(len(m.content) for m in messages)
    drop = max(1, round(1.1 * excess * characters / max(prompt_tokens, 1)))
    kept = len(content) - drop
    if len(content) <= 2:
        return None
    kept = max(kept, 2, len(content) // 4)
    shorter = content[: kept - kept // 2] + content[len(content) - kept // 2 :]
    return (*messages[:at], replace(messages[at], content=shorter), *messages[at + 1 :])


def _without_old_turns(messages: tuple[Message, ...], template: Template, max_length: int) -> tuple[Message, ...]:
    """Drop the oldest exchanges until the rest fits or one exchange is left. The system turn stays."""
    head = messages[:1] if messages[0].role == "system" else ()
    turns = messages[len(head) :]
    while True:
        later = next((i for i, m in enumerate(turns) if i and m.role == "user"), None)
        if later is None or len(template.conversation((*head, *turns))[0]) <= max_length:
            return (*head, *turns)
        turns = turns[later:]
