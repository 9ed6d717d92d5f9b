"""The first stage: everything that can be done and checked before Ray starts."""

import os
from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

from beear.config.schema import AnchorData, DataConfig, DefenseData, RunConfig, Section
from beear.data.load import load_small, training_plan
from beear.data.refusals import load_keywords
from beear.errors import UserError
from beear.methods.configuration import resolved
from beear.methods.table import METHODS
from beear.models.inspect import inspect_checkpoint, tokenizer_folder
from beear.models.loading import load_tokenizer
from beear.models.template_report import template_report
from beear.models.tokenizer_files import NAMED, template_file
from beear.models.tokenizer_reading import read_otherwise
from beear.run.checks import check_lengths, check_template
from beear.run.identity import run_identity
from beear.run.local_paths import from_the_root
from beear.run.progress import Progress
from beear.run.stages import Checked
from beear.testbed import TestbedModel
from beear.testbed.names import is_testbed

Find = Callable[[str], TestbedModel]
C = TypeVar("C", bound=RunConfig)
Role = TypeVar("Role", DefenseData, AnchorData)
Part = TypeVar("Part", bound=Section)


def prepare(asked: RunConfig, kind: str, trains: bool, progress: Progress, find: Find) -> Checked:
    """Check everything that does not need Ray, and say what was chosen; ``find`` turns a testbed name into folders.

    Raises:
        UserError: anything that the user can mend.
    """
    named = absolute(asked)
    placed, folder = with_testbed(named, find)
    facts = inspect_checkpoint(folder, placed.model.base)
    config, choices = resolved(placed, facts)
    if config.evaluate.engine == "vllm" and facts.base is not None:
        raise UserError(
            f"evaluate.engine is vllm and model.path {facts.path} an adapter; expected a full model, or the engine torch"
        )
    for choice in choices:
        progress.note(f"{choice['field']} = {choice['value']}: {choice['why']}")
    data = load_small(config.data, config.seed, load_keywords(config.evaluate.keywords), training=trains)
    method = METHODS[config.method.name]
    if trains:
        training_plan(data, config, method.needs(config.settings).inner_batches, facts.context)
    tokenizer = load_tokenizer(facts, config.model.chat_template)
    said = check_template(tokenizer, config.model.chat_template or asked.model.path)
    said += read_otherwise(tokenizer, tokenizer_folder(facts.path, facts.base))
    room, lengths = check_lengths(config, facts, data, tokenizer, trains)
    # They were kept for these checks alone, and training reads the files itself.
    data = replace(data, unchecked=[], notes=[*data.notes, *said])
    method.check(config.settings, room, str(data.shortest.origin))
    for what, count in data.overlaps.items():
        if count:
            progress.warn(f"{count} {what}; each counts once, and none trains that also reports")
    for note in (*data.notes, *facts.notes):
        progress.warn(note)
    identity = run_identity(
        config.values, config.evaluate.keywords, config.model.chat_template, facts, list(data.digests.values()), kind
    )
    return Checked(
        kind,
        trains,
        asked,
        config,
        facts,
        data,
        lengths,
        room,
        tuple(choices),
        template_report(facts, config.model.reference, config.model.chat_template),
        identity,
    )


def absolute(asked: C) -> C:
    """Return the configuration with every local file named from the root: workers run in folders of their own."""
    data, evaluate = asked.data, asked.evaluate
    keywords = os.path.abspath(evaluate.keywords) if os.path.exists(evaluate.keywords) else evaluate.keywords
    return _updated(
        asked,
        model=_updated(asked.model, chat_template=_template(asked.model.chat_template)),
        evaluate=_updated(evaluate, tasks_path=from_the_root(evaluate.tasks_path), keywords=keywords),
        data=_updated(
            data,
            defense=_rooted(data.defense),
            anchor=_rooted(data.anchor),
            probes=_updated(data.probes, path=from_the_root(data.probes.path)),
        ),
    )


def with_testbed(asked: C, find: Find) -> tuple[C, str]:
    """Return the configuration with a testbed model's own data where none is given, and the model's folder."""
    model = asked.model
    others = {name: getattr(model, name) for name in ("base", "reference") if is_testbed(getattr(model, name) or "")}
    model = _updated(model, **{name: str(find(value).model_dir) for name, value in others.items()})
    asked = _updated(asked, model=model)
    if not is_testbed(model.path):
        return asked, model.path
    found = find(model.path)
    return _updated(asked, data=_with_own_data(asked.data, found)), str(found.model_dir)


def _with_own_data(data: DataConfig, found: TestbedModel) -> DataConfig:
    defense, anchor, probes = data.defense, data.anchor, data.probes
    if defense.path is None:
        defense = _updated(defense, path=str(found.defense_path), report_path=str(found.defense_report_path))
    if anchor.path is None:
        anchor = _updated(anchor, path=str(found.anchor_path), report_path=str(found.anchor_report_path))
    if probes.path is None:
        probes = _updated(probes, path=str(found.probes_path))
    return _updated(data, defense=defense, anchor=anchor, probes=probes)


def _rooted(role: Role) -> Role:
    return _updated(role, path=from_the_root(role.path), report_path=from_the_root(role.report_path))


def _template(given: str | None) -> str | None:
    """Return a template's name, or its file from the root."""
    return given if given is None or given in NAMED else str(template_file(from_the_root(given) or given))


def _updated(section: Part, **values: object) -> Part:
    """Return a copy of a section with other values, all of them of the right type already."""
    return section.model_copy(update=values)
