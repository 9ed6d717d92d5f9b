"""A method of another package: its fields are parsed, shown, checked and counted, and leave no trace where it is not chosen."""

import pickle
from dataclasses import replace
from importlib.metadata import EntryPoint
from typing import Any, NamedTuple

import pytest
from pydantic import Field

from beear import extensions
from beear.config import schema
from beear.config.build import build
from beear.config.cli import help_text
from beear.config.fields import leaves
from beear.config.resolve import resolve
from beear.config.schema import PositiveInt, Section
from beear.config.yaml_file import to_yaml
from beear.errors import UserError
from beear.evaluation.measures.base import Limit
from beear.extensions import Table
from beear.methods import configuration
from beear.methods.configuration import method_class, run_config, tune_config
from beear.methods.method import Method
from beear.methods.table import METHODS
from beear.run.identity import config_digest
from tests.configs import Sized, asked, asked_search, resolved


class PruneSettings(Section):
    """What a made-up method has of its own."""

    heads: PositiveInt = Field(4, description="heads that are cut")
    layer: PositiveInt | None = Field(None, description="where it begins (auto: the first)")


def begins(settings: PruneSettings, sizes: Any, max_length: int) -> tuple[PruneSettings, list[Any]]:
    layer = settings.layer or 1
    return settings.model_copy(update={"layer": layer}), [{"field": "method.prune.layer", "value": layer, "why": "the first"}]


def unbuilt(_parts: Any) -> Any:
    raise NotImplementedError


PRUNE = Method("prune", "prune (cuts heads)", PruneSettings, unbuilt, lambda _settings, duration: duration, resolve=begins)
METHOD_CLASS = method_class([*METHODS.values(), PRUNE])


class RUN(schema.RunConfig):
    """A run's configuration with the made-up method's fields too."""

    method: METHOD_CLASS = Field(default_factory=METHOD_CLASS, description="the defense")  # type: ignore[valid-type]


def given(values: dict[str, Any] | None = None) -> Any:
    return build(RUN, values or {}, {})


def test_its_fields_stand_below_its_name_beside_all_others() -> None:
    mine = {"method.prune.heads", "method.prune.layer"}
    assert set(leaves(RUN)) == {*leaves(run_config()), *mine}
    text = " ".join(help_text(RUN, "", width=120).split())
    assert "method.prune: the fields of prune alone" in text
    assert "--method.prune.heads [4] heads that are cut (whole number, at least 1)" in text
    assert "--method.prune.layer [auto] where it begins" in text
    assert "finetune (the control: same data and steps, no perturbation), or prune (cuts heads)" in text


def test_its_fields_are_read_and_checked() -> None:
    config = given({"method.name": "prune", "method.prune.heads": 7})
    assert config.method.prune == PruneSettings(heads=7)
    with pytest.raises(UserError, match="^method.prune.heads is 0; expected a whole number, at least 1$"):
        given({"method.name": "prune", "method.prune.heads": 0})
    with pytest.raises(UserError, match=r'^method.name: unknown method "prun" \(did you mean "prune"\?\); expected beear or'):
        given({"method.name": "prun"})


def test_its_fields_are_refused_where_another_method_is_chosen() -> None:
    with pytest.raises(UserError, match="method.prune is given and method.name is beear; expected method.name prune"):
        given({"method.prune.heads": 7})


def test_fields_of_the_first_method_are_refused_and_left_out_where_it_is_chosen() -> None:
    with pytest.raises(UserError, match="method.length is given and method.name is prune, which has no such field"):
        given({"method.name": "prune", "method.length": 9})
    shown = given({"method.name": "prune"}).model_dump(mode="json")["method"]
    assert shown["prune"] == {"heads": 4, "layer": None} and not {"layer", "length", "placement"} & set(shown)


def test_a_method_that_is_not_chosen_leaves_no_trace() -> None:
    plain = given().model_dump(mode="json")
    assert plain == asked().model_dump(mode="json")
    assert to_yaml(given()) == to_yaml(asked()) and config_digest(plain) == config_digest(asked().model_dump(mode="json"))
    assert resolve(given(), METHODS["beear"], Sized())[0].values == resolved().values


def test_a_chosen_methods_own_fields_are_in_the_record_and_the_identity() -> None:
    config, choices = resolve(given({"method.name": "prune", "method.prune.heads": 7}), PRUNE, Sized())
    assert config.settings == PruneSettings(heads=7, layer=1)
    assert config.values["method"]["prune"] == {"heads": 7, "layer": 1}
    assert choices[0] == {"field": "method.prune.layer", "value": 1, "why": "the first"}
    other, _ = resolve(given({"method.name": "prune", "method.prune.heads": 6}), PRUNE, Sized())
    assert config_digest(config.values) != config_digest(other.values)


@pytest.mark.parametrize("kind", [run_config, tune_config])
def test_classes_are_made_once(kind: Any) -> None:
    assert kind() is kind()


@pytest.mark.parametrize(
    "config", [asked({"method.layer": 3}), asked_search({"search.trials": 3}), resolved({"method.layer": 3})]
)
def test_configurations_travel_to_workers(config: Any) -> None:
    found = pickle.loads(pickle.dumps(config))
    assert found == config and type(found) is type(config)


def test_a_search_has_defaults_of_its_own() -> None:
    assert (asked().method.placement, asked_search().method.placement) == ("prompt", "suffix")
    assert asked_search({"method.placement": "prefix"}).method.placement == "prefix"


def test_a_configuration_never_changes() -> None:
    with pytest.raises(ValueError, match="frozen"):
        asked().method.epochs = 3


class Bound(NamedTuple):
    """A measure of another package that the gate decides on."""

    name: str
    limit: Any


@pytest.mark.parametrize("name", ["asr", "utility_loss", "utility_measure"])
def test_a_measure_of_another_package_cannot_take_the_place_of_a_limit(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A measure named ``asr`` would replace the limit on attack success, and with it the verdict."""
    monkeypatch.setitem(globals(), "FOREIGN", Bound(name, Limit(0.9, "a share")))
    offer(monkeypatch, "beear.measures")
    with pytest.raises(UserError, match=f'"{name}" is taken in beear.measures; expected a name of its own'):
        configuration._gate_class.__wrapped__()


def test_what_has_no_name_is_no_measure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(globals(), "FOREIGN", 7)
    offer(monkeypatch, "beear.measures")
    with pytest.raises(UserError, match="found int, expected Measure"):
        configuration._gate_class.__wrapped__()


@pytest.mark.parametrize("name", ["epochs", "weights", "layer"])
def test_a_method_of_another_package_cannot_take_the_place_of_a_field(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(globals(), "FOREIGN", replace(PRUNE, name=name))
    offer(monkeypatch, "beear.methods")
    with pytest.raises(UserError, match=f'"{name}" is taken in beear.methods; expected a name of its own'):
        list(Table("beear.methods", Method, [], taken=METHODS.taken))


def offer(monkeypatch: pytest.MonkeyPatch, group: str) -> None:
    """Let an installed package offer ``FOREIGN`` of this module."""
    point = EntryPoint("foreign", f"{__name__}:FOREIGN", group)
    monkeypatch.setattr(extensions, "entry_points", lambda group: [point] if group == point.group else [])
