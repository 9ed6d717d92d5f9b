"""The stages of a run, as values that never change: each holds the one before it and names what it adds.

    checked → placed → trained → scored → report → delivered

The report (:class:`beear.records.report.Report`) holds the verdict. A measurement without training goes from placed to it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from beear.cluster.capacity import Reservation
from beear.cluster.scoring import Measured, Scoring
from beear.cluster.training_worker import WorkerSpec
from beear.config.resolve import Choice, ResolvedConfig
from beear.config.schema import ParallelConfig, RunConfig
from beear.data.load import LoadedData, training_plan
from beear.engine.session import Training
from beear.evaluation.shard import MeasuredRows
from beear.methods.method import Method
from beear.methods.table import METHODS
from beear.models.facts import ModelFacts
from beear.parallel.spread import Spread
from beear.records.report import Drift, EpochRecord
from beear.run.choose_backend import settled_values
from beear.run.longest_rows import Lengths
from beear.streams.datasets import StreamSpec


@dataclass(frozen=True)
class Checked:
    """A run that may begin: checkpoint, data and settings are known to be good. Nothing of it needs Ray.

    Args:
        kind: the name of its command.
        trains: whether it trains, or only measures.
        asked: the configuration as it was asked for.
        config: the same with no auto field left.
        facts: the checkpoint, inspected.
        data: the data, read and split.
        lengths: tokens of the longest rows.
        room: positions of the shortest prompt, by what they are counted from.
        choices: the defaults that were chosen, and why.
        template: what is known of the chat template, for the report.
        identity: digest (hex) of all that decides the run's numbers.
    """

    kind: str
    trains: bool
    asked: RunConfig
    config: ResolvedConfig
    facts: ModelFacts
    data: LoadedData
    lengths: Lengths
    room: Mapping[str, int]
    choices: tuple[Choice, ...]
    template: Mapping[str, Any]
    identity: str

    @property
    def method(self) -> Method:
        """The chosen method."""
        return METHODS[self.config.method.name]

    @property
    def watched_layer(self) -> int | None:
        """The layer whose drift is reported, where the method has one."""
        return self.method.watched(self.config.settings)

    @property
    def parallel(self) -> ParallelConfig:
        """How the work is to be spread, as it was asked for."""
        return self.asked.parallel


@dataclass(frozen=True)
class Placed:
    """A checked run with its place on the cluster. Adds what needs Ray to be known.

    Args:
        checked: the stage before.
        reservation: workers, CPUs and GPUs.
        spread: how weights lie on the workers; None where nothing is trained.
        data: the data with the answers filled in that files leave out.
        choices: all defaults that were chosen, and why.
    """

    checked: Checked
    reservation: Reservation
    spread: Spread | None
    data: LoadedData
    choices: tuple[Choice, ...]

    @property
    def values(self) -> dict[str, Any]:
        """The whole configuration as plain data, with how weights are spread filled in: what reports and trackers show."""
        values = dict(self.checked.config.values)
        if self.spread is not None:
            values["parallel"] = {**values["parallel"], **settled_values(self.spread)}
        return values

    @property
    def scoring(self) -> Scoring:
        """What is measured, before and after."""
        return Scoring(self.checked.config, MeasuredRows(self.data.report, self.data.anchor_report, self.data.probes))

    def worker_spec(self) -> WorkerSpec:
        """Return what training workers need."""
        checked, config, data = self.checked, self.checked.config, self.data
        if self.spread is None:
            raise ValueError("a run that only measures has no training workers")
        needs = checked.method.needs(config.settings)
        plan = training_plan(data, config, needs.inner_batches, checked.facts.context)
        training = Training(
            config,
            checked.facts,
            plan,
            self.spread,
            data.selection,
            data.anchor_selection,
            data.default_hit,
            data.probes,
        )
        stream = StreamSpec(
            plan,
            checked.facts,
            epochs=config.method.epochs,
            data_cpus=self.reservation.data_cpus,
            chat_template=config.model.chat_template,
        )
        return WorkerSpec(training, stream, checked.identity)


@dataclass(frozen=True)
class Trained:
    """A placed run whose model is trained and exported. Adds the measurement before, the epochs and the ``model`` folder."""

    placed: Placed
    before: Measured
    epochs: tuple[EpochRecord, ...]
    model: Path


@dataclass(frozen=True)
class Scored:
    """A trained run whose exported files are measured. Adds the measurement after, and how far hidden states moved."""

    trained: Trained
    after: Measured
    drift: Drift
