"""Usefulness on held-out anchoring rows: exact match of the last answer, and NLL of all answers."""

from collections.abc import Sequence

from beear.data.rows import AnchorRow
from beear.evaluation.generate import generate_ids
from beear.evaluation.likelihood import conversation_nll
from beear.evaluation.outcomes import AnchorOutcome
from beear.evaluation.over_refusal import refused
from beear.evaluation.subject import Subject


def useful(
    subject: Subject,
    rows: Sequence[tuple[int, AnchorRow]],
    keywords: tuple[str, ...],
    max_new_tokens: int,
    batch_size: int,
) -> list[AnchorOutcome]:
    """Return exact match, refusal and NLL of each (index, row).

    Exact match is None where the reference has more than ``max_new_tokens`` tokens: no completion could equal it.
    """
    requests = [row.messages[:-1] for _, row in rows]
    references = [row.messages[-1].content for _, row in rows]
    prompts = [subject.template.prompt_ids(request) for request in requests]
    completions = [subject.text(ids) for ids in generate_ids(subject, prompts, max_new_tokens, batch_size)]
    losses = conversation_nll(subject, [row.messages for _, row in rows], batch_size)
    outcomes = []
    for (index, row), reference, completion, nll in zip(rows, references, completions, losses, strict=True):
        length = len(subject.template.answer_ids(row.messages[:-1], reference, end_of_turn=False))
        exact = same_words(completion, reference) if length <= max_new_tokens else None
        outcomes.append(AnchorOutcome(index, exact, refused(completion, reference, keywords, row.hit), nll))
    return outcomes


def same_words(one: str, other: str) -> bool:
    """Say whether two texts are equal up to runs of white space."""
    return one.split() == other.split()
