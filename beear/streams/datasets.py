"""Ray Data sets for Ray Train, one per worker: their tasks read, template and tokenise that worker's rows beside it."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import pyarrow as pa
import ray.data
from ray.data import DataContext, Dataset

from beear.data.steps import Steps, TrainingPlan
from beear.data.templates import Template
from beear.errors import UserError
from beear.models.facts import ModelFacts
from beear.streams.tables import table_of, table_of_error

# Small output blocks let a first batch leave before its epoch is read to the end.
BLOCK_BYTES = 1 << 16


@dataclass(frozen=True)
class StreamSpec:
    """What travels to Ray Data tasks: the training plan, and the checkpoint whose tokenizer it needs. Plain data.

    ``epochs`` is the last epoch. ``data_cpus`` is the share of CPUs that all workers' reading tasks have together.
    ``chat_template`` is a .jinja file or a name.
    """

    plan: TrainingPlan
    facts: ModelFacts
    epochs: int
    data_cpus: float = 0.5
    chat_template: str | None = None


def shard_name(rank: int) -> str:
    """Return the name of worker ``rank``'s data set in Ray Train."""
    return f"rows-{rank}"


def datasets(
    stream: StreamSpec, workers: int, last_done: Callable[[], int] | None = None, events: Any = None
) -> dict[str, Callable[[], Dataset]]:
    """Return a function per worker that makes its data set; pass them unsplit to the trainer.

    Ray Train calls them each time that it starts workers. So a resumed run and workers that replace lost ones begin with
    the epoch after ``last_done()``, the last epoch that is saved (0: none), and read nothing of earlier ones. ``events``
    is told of every epoch that was read (:class:`beear.cluster.events.EventQueue`).
    """
    # Workers get the driver's context too.
    quiet(DataContext.get_current())
    return {shard_name(rank): partial(dataset, stream, rank, workers, last_done, events) for rank in range(workers)}


def dataset(
    stream: StreamSpec, rank: int, workers: int, last_done: Callable[[], int] | None = None, events: Any = None
) -> Dataset:
    """Return worker ``rank``'s rows, tokenised, in the order in which they are used, executed lazily.

    One task at a time reads an epoch. Tasks of a worker that runs ahead wait for it, and more of them could hold the CPUs
    that another worker's first task needs.
    """
    # A finished run has no epoch left and reads nothing, but its data set may not be empty.
    first = min(last_done() + 1 if last_done else 1, stream.epochs)
    epochs = [{"epoch": epoch} for epoch in range(first, stream.epochs + 1)]
    context = DataContext.get_current()
    before = context.target_max_block_size
    context.target_max_block_size = BLOCK_BYTES
    quiet(context)
    try:
        return ray.data.from_items(epochs, override_num_blocks=len(epochs)).map_batches(
            read_epochs,  # type: ignore[arg-type]  # its further arguments come from fn_kwargs
            batch_size=1,
            batch_format="pyarrow",
            fn_kwargs={"stream": stream, "rank": rank, "world": workers, "events": events},
            num_cpus=round(stream.data_cpus / workers, 4),
            compute=ray.data.TaskPoolStrategy(size=1),
        )
    finally:
        context.target_max_block_size = before


def quiet(context: DataContext) -> None:
    """Switch off progress bars and the execution plan's announcement, and never end a slow execution.

    By default Ray Data ends an execution from which nothing is taken for half an hour, as in a long epoch.
    """
    context.enable_progress_bars = False
    context.enable_operator_progress_bars = False
    context.print_on_execution_start = False
    context.execution_options.preserve_order = True
    if hasattr(context, "execution_no_progress_timeout_s"):
        context.execution_no_progress_timeout_s = -1


def read_epochs(items: pa.Table, stream: StreamSpec, rank: int, world: int, events: Any = None) -> Iterator[pa.Table]:
    """Yield the steps of the epochs in ``items`` for worker ``rank`` of ``world``, as a Ray Data task.

    A bad row ends them as a value. ``events`` is told how many rows of each epoch were read and tokenised.
    """
    for epoch in items.column("epoch").to_pylist():
        try:
            steps = Steps(stream.plan, template_of(stream), rank, world)
            for step in steps.epoch(epoch):
                yield table_of(step)
        except UserError as error:
            yield table_of_error(epoch, error)
            continue
        if events is not None:
            counts = {"epoch": epoch, "worker": rank, "read": steps.read, "encoded": steps.encoded}
            events.post.remote({"kind": "rows", **counts})


_templates: dict[tuple[str, str | None, str | None], Template] = {}


def template_of(stream: StreamSpec) -> Template:
    """Return the checkpoint's template; a process loads the tokenizer once."""
    # Ray's own actors import this module too, and need neither torch nor the models.
    from beear.models.loading import load_tokenizer

    key = (stream.facts.path, stream.facts.base, stream.chat_template)
    if key not in _templates:
        _templates[key] = Template(load_tokenizer(stream.facts, stream.chat_template))
    return _templates[key]
