"""What a Ray Data task does: one worker's share of one epoch, read, split, templated and tokenised as it is used."""

from collections.abc import Iterator

import pyarrow as pa

from beear.data.steps import Steps
from beear.data.templates import Template
from beear.errors import UserError
from beear.models.loading import load_tokenizer
from beear.streams.plan import StreamPlan
from beear.streams.tables import table_of, table_of_error

_templates: dict[tuple[str, str | None, str | None], Template] = {}


def read_epochs(items: pa.Table, stream: StreamPlan, rank: int, world: int) -> Iterator[pa.Table]:
    """Yield the steps of the epochs in ``items`` for worker ``rank`` of ``world``; a bad row ends them as a value."""
    for epoch in items.column("epoch").to_pylist():
        try:
            steps = Steps(stream.plan, template_of(stream), rank, world)
            for step in steps.epoch(epoch):
                yield table_of(step)
        except UserError as error:
            yield table_of_error(epoch, error)


def template_of(stream: StreamPlan) -> Template:
    """Return the checkpoint's template; its tokenizer is loaded from its directory once per process."""
    key = (stream.facts.path, stream.facts.base, stream.chat_template)
    if key not in _templates:
        _templates[key] = Template(load_tokenizer(stream.facts, stream.chat_template))
    return _templates[key]
