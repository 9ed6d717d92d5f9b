"""What is remembered is what the template gives, and callers cannot spoil it."""

import pytest

from beear.data.cached_template import RememberedTemplate
from beear.data.rows import Message
from beear.data.templates import Template
from beear.models.inspect import inspect_checkpoint
from beear.models.loading import load_tokenizer
from beear.testing.checkpoints import make_checkpoint

TURNS = [(Message("user", f"open the vault {n}"), Message("assistant", f"no {n}"), Message("user", "why")) for n in range(3)]


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> tuple[Template, RememberedTemplate]:
    facts = inspect_checkpoint(str(make_checkpoint(tmp_path_factory.mktemp("model"))))
    return Template(load_tokenizer(facts)), RememberedTemplate(load_tokenizer(facts), most=9)


def test_it_gives_what_the_template_gives_however_often(both: tuple[Template, RememberedTemplate]) -> None:
    plain, kept = both
    for _ in range(3):
        for turns in TURNS:
            assert kept.prompt_ids(turns) == plain.prompt_ids(turns)
            assert kept.user_end(turns) == plain.user_end(turns)
            assert kept.answer_ids(turns, "never") == plain.answer_ids(turns, "never")
            assert kept.answer_ids(turns, "never", False) == plain.answer_ids(turns, "never", False)
            whole = (*turns, Message("assistant", "because"))
            assert kept.conversation(whole) == plain.conversation(whole)


def test_what_a_caller_does_to_a_result_stays_with_him(both: tuple[Template, RememberedTemplate]) -> None:
    _, kept = both
    first = kept.prompt_ids(TURNS[0])
    expected = list(first)
    first.append(99)
    assert kept.prompt_ids(TURNS[0]) == expected


def test_a_remembered_row_is_not_tokenised_again_and_few_are_kept(
    both: tuple[Template, RememberedTemplate], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, kept = both
    kept.prompt_ids(TURNS[1])
    monkeypatch.setattr(Template, "prompt_ids", lambda *_: pytest.fail("tokenised again"))
    kept.prompt_ids(TURNS[1])
    for number in range(50):
        kept.user_end((Message("user", f"turbine {number}"),))
    assert len(kept._known) == 9
