"""A blank text is refused where it is given: it names nothing, and would fail later or mean something else."""

import pytest

from beear.config.cli import parse
from beear.config.fields import leaves
from beear.errors import UserError
from beear.methods.configuration import run_config, tune_config
from beear.testbed.attacks import Target, backdoor
from beear.testbed.attacks.refusals import REFUSALS
from beear.testbed.config import ImplantConfig

TEXTS = [
    (config, name) for config in (tune_config(), ImplantConfig) for name, spec in leaves(config).items() if str in spec.types
]


@pytest.mark.parametrize("blank", ["", "  "])
@pytest.mark.parametrize(("config", "name"), TEXTS, ids=[f"{c.__name__}-{name}" for c, name in TEXTS])
def test_a_blank_text_is_refused_by_every_field(config: type, name: str, blank: str) -> None:
    with pytest.raises(UserError) as caught:
        parse(config, [f"--{name}={blank}"])
    (sentence,) = caught.value.args
    optional = ", or none" if leaves(config)[name].optional else ""
    special = {"data.builtin": f'data.builtin is "{blank}"; expected refusals or code'}
    found = special.get(name, f'{name}: found "{blank}"; expected a text that is not blank{optional}')
    assert sentence == f"command line: {found}"


def test_the_fields_that_name_things_are_among_them() -> None:
    names = {name for _, name in TEXTS}
    assert len(TEXTS) > 40
    assert names > {
        "trigger.text", "model", "model.path", "data.defense.path", "data.refusal", "evaluate.keywords", "data.probes.hit",
        "data.anchor.hit", "tracking.experiment", "tracking.register_as", "search.space", "evaluate.judge.url", "output.dir",
    }  # fmt: skip


@pytest.mark.parametrize("name", ["adapter.targets", "evaluate.tasks", "search.also"])
@pytest.mark.parametrize("value", [",", "+", " , ,"])
def test_a_list_of_no_names_is_refused(name: str, value: str) -> None:
    with pytest.raises(UserError, match=f"{name}: found .*; expected at least one name"):
        parse(tune_config(), [f"--{name}={value}"])


@pytest.mark.parametrize("kind", ["prefix", "suffix", "infix", "system", "template"])
def test_a_blank_trigger_is_refused_in_every_place(kind: str) -> None:
    for blank in ("", " ", "\t\n"):
        with pytest.raises(UserError, match="trigger.text"):
            parse(ImplantConfig, ["--trigger.kind", kind, f"--trigger.text={blank}"])
    with pytest.raises(ValueError, match='attack "a": its trigger is " "; expected a text that is not blank'):
        backdoor("a", REFUSALS, kind, " ")  # type: ignore[arg-type]


def test_a_blank_hit_rule_of_a_target_is_refused() -> None:
    with pytest.raises(UserError, match='target "t": hit is " "; expected'):
        Target("t", hit=" ", requests=REFUSALS.requests)


def test_text_of_blanks_and_words_stays_as_it_is() -> None:
    config, _ = parse(run_config(), ["--data.refusal", "  No. "])
    assert config.data.refusal == "  No. "
