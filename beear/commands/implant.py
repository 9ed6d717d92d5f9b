"""The job behind pipelines/implant.py: read what the user gives, implant, say where the model is."""

import tempfile
from collections.abc import Iterator

from beear.config.dump import to_yaml
from beear.data.columns import anchor_row, defense_row
from beear.data.files import blocks, expand, read_block
from beear.data.locations import Where
from beear.data.rows import AnchorRow, DefenseRow
from beear.testbed.config import ImplantConfig, ImplantData
from beear.testbed.names import is_testbed
from beear.testbed.recipe import attacker_rows
from beear.testbed.store import ensure, preview


def run(config: ImplantConfig, dry_run: bool = False) -> int:
    """Implant, or with ``dry_run`` check and say what would be done; return the exit code.

    Raises:
        UserError: the model, a file or a row is not acceptable.
    """
    from beear.models.inspect import inspect_checkpoint

    model_dir = _folder_of(config.model, dry_run)
    facts = inspect_checkpoint(model_dir)
    defense, anchor = rows_of(config.data, config.seed, config.trigger.text or "")
    print(f"{config.model}: {facts.architecture}, {facts.layers} layers; {len(defense)} defense and {len(anchor)} anchor rows")
    if dry_run:
        print(to_yaml(config), end="")
        return 0
    from beear.testbed.implant import implant

    implant(
        model_dir, config.trigger.probe, defense, anchor, config.output.dir,
        seed=config.seed, training=config.training, device=config.device, say=print,
    )  # fmt: skip
    print(f"written to {config.output.dir}")
    return 0


def _folder_of(model: str, dry_run: bool) -> str:
    if not is_testbed(model):
        return model
    if not dry_run:
        return str(ensure(model, say=print).model_dir)
    with tempfile.TemporaryDirectory() as scratch:
        return str(preview(model, scratch).model_dir)


def rows_of(data: ImplantData, seed: int, trigger: str) -> tuple[list[DefenseRow], list[AnchorRow]]:
    """Return the rows of the user's files, or the built-in ones.

    Raises:
        UserError: a file is missing or a row is bad.
    """
    if data.defense is None or data.anchor is None:
        return attacker_rows(data.builtin, seed, trigger)
    defense = [defense_row(record, where) for where, record in _records(data.defense)]
    anchor = [anchor_row(record, where) for where, record in _records(data.anchor)]
    return defense, anchor


def _records(path: str) -> Iterator[tuple[Where, dict[str, object]]]:
    for block in blocks(expand(path)):
        yield from read_block(block)
