"""Everything that can be done and checked before Ray starts: names to folders, files to facts, settings to a plan."""

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from beear.cluster.connection import Plan
from beear.cluster.scoring import Scoring, greedy_answers
from beear.cluster.training_worker import WorkerSpec
from beear.config.resolve import Choice, resolve
from beear.config.schema import RunConfig
from beear.data.load import LoadedData, fill_in, load_small, training_plan
from beear.data.refusals import load_keywords
from beear.engine.session import Training
from beear.evaluation.measure import MeasuredRows
from beear.models.facts import ModelFacts
from beear.models.inspect import inspect_checkpoint
from beear.models.loading import load_tokenizer
from beear.models.template_report import template_report
from beear.run.checks import check_engine, check_lengths, check_template
from beear.run.identity import run_identity
from beear.run.longest_rows import Lengths, longest_lengths
from beear.run.progress import Reporter
from beear.streams.plan import StreamPlan
from beear.testbed import TestbedModel
from beear.testbed.names import is_testbed

Kind = Literal["sanitize", "evaluate", "tune"]
Find = Callable[[str], TestbedModel]


@dataclass
class Job:
    """A checked run. ``config`` is resolved; ``asked`` is what ``model.path`` said.

    ``room``: positions that every prompt has for δ, by what they are counted from (``method.suffix_from``).
    """

    kind: Kind
    config: RunConfig
    asked: str
    facts: ModelFacts
    data: LoadedData
    lengths: Lengths
    room: dict[str, int]
    choices: list[Choice]
    template: dict[str, Any]
    identity: str

    @property
    def scoring(self) -> Scoring:
        """What is measured."""
        return Scoring(self.config, MeasuredRows(self.data.report, self.data.anchor_report, self.data.probes))

    def fill_answers(self, plan: Plan) -> None:
        """Fill in the safe answers that files leave out, by the checkpoint itself where it refuses (needs Ray)."""
        if self.data.missing:
            keywords = load_keywords(self.config.evaluate.keywords)
            self.data = fill_in(
                self.data,
                lambda requests: greedy_answers(self.config, self.facts, list(requests), plan),
                self.config.data.refusal,
                keywords,
            )

    def worker_spec(self) -> WorkerSpec:
        """Return what training workers need; answers are filled in first."""
        config, data = self.config, self.data
        plan = training_plan(data, config, self.facts.context)
        training = Training(config, self.facts, plan, data.selection, data.anchor_selection, data.default_hit, data.probes)
        stream = StreamPlan(
            plan,
            self.facts,
            epochs=config.method.epochs,
            data_cpus=config.parallel.data_cpus,
            chat_template=config.model.chat_template,
        )
        return WorkerSpec(training, stream, self.identity)


def prepare(config: RunConfig, kind: Kind, reporter: Reporter, find: Find) -> Job:
    """Check everything that does not need Ray, and say what was chosen; ``find`` turns a testbed name into folders.

    Raises:
        UserError: anything that the user can mend.
    """
    asked = config.model.path
    config, folder = with_testbed(absolute(config), find)
    facts = inspect_checkpoint(folder, config.model.base)
    config, choices = resolve(config, facts)
    check_engine(config, facts)
    for choice in choices:
        reporter.note(f"{choice['field']} = {choice['value']}: {choice['why']}")
    keywords = load_keywords(config.evaluate.keywords)
    data = load_small(config.data, config.seed, keywords, training=kind != "evaluate")
    if kind != "evaluate":
        training_plan(data, config, facts.context)
    tokenizer = load_tokenizer(facts, config.model.chat_template)
    check_template(tokenizer, config.model.chat_template or asked)
    room = check_lengths(config, facts, data, tokenizer)
    for what, count in data.overlaps.items():
        if count:
            reporter.say(f"  note: {count} {what}; each counts once, and none trains that also reports")
    for note in facts.notes:
        reporter.say(f"  note: {note}")
    return Job(
        kind,
        config,
        asked,
        facts,
        data,
        longest_lengths(config, data, tokenizer),
        room,
        choices,
        template_report(facts, config.model.reference),
        run_identity(config, facts, data.digests, kind),
    )


def absolute(config: RunConfig) -> RunConfig:
    """Return a copy in which every local file is named from the root: workers run in folders of their own."""
    config = config.model_copy(deep=True)
    for holder, name in (
        (config.model, "chat_template"),
        (config.evaluate, "tasks_path"),
        *((section, field) for section in (config.data.defense, config.data.anchor) for field in ("path", "report_path")),
        (config.data.probes, "path"),
    ):
        value = getattr(holder, name)
        if value and not re.match(r"[a-z][a-z0-9]*:", value):
            setattr(holder, name, os.path.abspath(os.path.expanduser(value)))
    if os.path.exists(config.evaluate.keywords):
        config.evaluate.keywords = os.path.abspath(config.evaluate.keywords)
    return config


def with_testbed(config: RunConfig, find: Find) -> tuple[RunConfig, str]:
    """Return a copy of ``config`` with a testbed name's own data where none is given, and the model's folder."""
    config = config.model_copy(deep=True)
    for other in ("base", "reference"):
        if is_testbed(getattr(config.model, other) or ""):
            setattr(config.model, other, str(find(getattr(config.model, other)).model_dir))
    if not is_testbed(config.model.path):
        return config, config.model.path
    model = find(config.model.path)
    data = config.data
    if data.defense.path is None:
        data.defense.path, data.defense.report_path = str(model.defense_path), str(model.defense_report_path)
    if data.anchor.path is None:
        data.anchor.path, data.anchor.report_path = str(model.anchor_path), str(model.anchor_report_path)
    if data.probes.path is None:
        data.probes.path = str(model.probes_path)
    return config, str(Path(model.model_dir))
