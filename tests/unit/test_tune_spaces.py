"""The shipped spaces: every key is a field, every sample a run that a model of any depth can have."""

import importlib
import random
from types import ModuleType

import pytest

from beear.config.domains import Between, Depth, OneOf
from beear.config.fields import leaves
from beear.config.resolve import default_layer
from beear.config.search import SearchConfig
from beear.methods.configuration import run_config
from beear.models.families import FAMILIES
from beear.search.space import family_of, known_families, load_space
from tests.configs import Sized, asked, resolved, value_at

CORE = ["method.layer", "method.length", "method.inner_steps"]
GROUPS = ["learning_rates", "placement", "outer_steps", "bound"]
# Layers and parameters: the testbed, a small model, a 7B and a 70B.
MODELS = [(6, 1_400_000), (16, 10**9), (32, 7 * 10**9), (80, 70 * 10**9)]

families = pytest.mark.parametrize("family", known_families())


def module(family: str) -> ModuleType:
    return importlib.import_module(f"tune_spaces.{family}")


@families
def test_every_key_is_a_field(family: str) -> None:
    space, groups = module(family).SPACE, module(family).ASKED
    assert list(space) == CORE and list(groups) == GROUPS
    keys = [key for domains in (space, *groups.values()) for key in domains]
    assert set(keys) <= set(leaves(run_config()))
    assert len(set(keys)) == len(keys), "no group may change what the core or another group searches"


def test_every_group_is_named_in_the_help() -> None:
    description = SearchConfig.model_fields["also"].description or ""
    assert [group for group in GROUPS if group not in description] == []


@families
@pytest.mark.parametrize(("layers", "parameters"), MODELS)
def test_every_sample_is_a_run_that_the_model_can_have(family: str, layers: int, parameters: int) -> None:
    space, draw = load_space(family, GROUPS, layers), random.Random(0)
    for setting in [space.sample(draw) for _ in range(40)]:
        values = resolved(setting, Sized(layers, 4096, parameters)).values
        assert {key: value_at(values, key) for key in setting} == setting, "nothing is rounded, cut or filled in"
        assert 1 <= setting["method.layer"] <= layers - 1


@families
def test_every_value_and_every_end_is_one_that_its_field_takes(family: str) -> None:
    for name, domain in load_space(family, GROUPS, 32).domains.items():
        for value in domain.options if isinstance(domain, OneOf) else (domain.low, domain.high):
            assert value_at(asked({name: value}).model_dump(), name) == value


@families
def test_the_core_is_worth_a_search(family: str) -> None:
    space = load_space(family, (), 32)
    layer, length, steps = (space.domains[name].values() for name in CORE)
    assert len(layer or ()) >= 4 and len(length or ()) >= 4 and len(steps or ()) >= 3
    assert None in (steps or ()), "a calibrated K"
    assert 5 in (length or ()), "the paper's n"
    small = load_space(family, (), 6)
    assert len(small.domains["method.layer"].values() or ()) >= 3
    assert (small.size() or 0) >= 16, "sixteen different trials on the testbed's six layers"


@families
def test_the_default_layer_is_among_those_tried(family: str) -> None:
    """A search must be able to find that nothing beats the settings of a run without one."""
    assert default_layer(32) in (load_space(family, (), 32).domains["method.layer"].values() or ())


def test_the_papers_layers_are_among_those_tried() -> None:
    assert 9 in (load_space("llama", (), 32).domains["method.layer"].values() or ())
    assert 16 in (load_space("mistral", (), 32).domains["method.layer"].values() or ())


def test_every_architecture_is_a_known_one_and_in_one_space() -> None:
    named = [name for family in known_families() for name in module(family).ARCHITECTURES]
    assert len(set(named)) == len(named), "in two spaces"
    assert set(named) <= set(FAMILIES), "no such architecture is loaded"
    assert {name for name in FAMILIES if family_of(name) == "generic"} == set(FAMILIES) - set(named)


@pytest.mark.parametrize("name", [name for name in FAMILIES if "Moe" in name or "Mixtral" in name or "Deepseek" in name])
def test_mixtures_of_experts_have_a_space_of_their_own(name: str) -> None:
    assert family_of(name) == "moe"


@families
def test_each_file_gives_its_reasons_and_holds_nothing_else(family: str) -> None:
    found = module(family)
    assert len(found.__doc__ or "") > 100
    domains = [d for group in (found.SPACE, *found.ASKED.values()) for d in group.values()]
    assert all(isinstance(domain, Depth | OneOf | Between) for domain in domains)
    assert isinstance(found.SPACE["method.layer"], Depth), "shares of the depth, for models differ"
