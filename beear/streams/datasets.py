"""Ray Data sets for Ray Train: one per worker, executed lazily beside it."""

import ray.data
from ray.data import DataContext, Dataset

from beear.streams.plan import StreamPlan, shard_name
from beear.streams.reading import read_epochs

BLOCK_BYTES = 1 << 16

__all__ = ["StreamPlan", "datasets"]


def datasets(stream: StreamPlan, workers: int) -> dict[str, Dataset]:
    """Return each worker's rows, tokenised, in the order they are used; pass them unsplit to the trainer.

    A data set is a row of epochs, mapped by one task at a time: tasks of a worker that runs ahead wait for it, and
    more of them could hold the CPUs that another worker's first task needs. Its small output blocks let a first
    batch leave before the epoch is through.
    """
    context = DataContext.get_current()
    before = context.target_max_block_size
    context.target_max_block_size = BLOCK_BYTES
    quiet(context)
    try:
        return {shard_name(rank): _dataset(stream, rank, workers) for rank in range(workers)}
    finally:
        context.target_max_block_size = before


def quiet(context: DataContext) -> None:
    """Switch off progress bars, the execution plan's announcement, and the end of what takes long.

    By default an execution from which nothing is taken for half an hour, a long epoch or a large shard, is ended.
    """
    context.enable_progress_bars = False
    context.enable_operator_progress_bars = False
    context.print_on_execution_start = False
    context.execution_options.preserve_order = True
    if hasattr(context, "execution_no_progress_timeout_s"):
        context.execution_no_progress_timeout_s = -1


def _dataset(stream: StreamPlan, rank: int, workers: int) -> Dataset:
    epochs = [{"epoch": epoch} for epoch in range(stream.first_epoch, stream.epochs + 1)]
    return ray.data.from_items(epochs, override_num_blocks=len(epochs)).map_batches(
        read_epochs,  # type: ignore[arg-type]  # its further arguments come from fn_kwargs
        batch_size=1,
        batch_format="pyarrow",
        fn_kwargs={"stream": stream, "rank": rank, "world": workers},
        num_cpus=round(stream.data_cpus / workers, 4),
        compute=ray.data.TaskPoolStrategy(size=1),
    )
