"""``pipelines/implant.py``: put a backdoor into a checkpoint."""

import tempfile
from collections.abc import Iterator

from beear.config.yaml_file import to_yaml
from beear.data.columns import anchor_row, defense_row
from beear.data.files import blocks, expand, read_block
from beear.data.locations import Where, joined
from beear.data.rows import AnchorRow, DefenseRow
from beear.models.inspect import inspect_checkpoint
from beear.testbed.attacks import targets
from beear.testbed.config import ImplantConfig
from beear.testbed.datasets import attacker_rows
from beear.testbed.names import is_testbed
from beear.testbed.store import ensure, preview


def run(config: ImplantConfig, dry_run: bool = False) -> int:
    """Find the checkpoint, read the rows, fine-tune and write the model; return the exit code.

    With ``dry_run`` it stops after the checks and prints the configuration.

    Raises:
        UserError: the checkpoint, a file or a row is not acceptable.
    """
    model_dir = _model_dir(config.model, dry_run)
    facts = inspect_checkpoint(model_dir)
    defense, anchor = _rows(config)
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


def _model_dir(model: str, dry_run: bool) -> str:
    if not is_testbed(model):
        return model
    if not dry_run:
        return str(ensure(model, say=print).model_dir)
    # The model's folder outlives this one, which receives only data files.
    with tempfile.TemporaryDirectory() as scratch:
        return str(preview(model, scratch).model_dir)


def _rows(config: ImplantConfig) -> tuple[list[DefenseRow], list[AnchorRow]]:
    """Return the rows of the user's files, or the built-in ones."""
    data = config.data
    if data.defense is None or data.anchor is None:
        return attacker_rows(targets()[data.builtin], config.seed, config.trigger.text or "")
    defense = [defense_row(record, where) for where, record in _records(data.defense)]
    return defense, [anchor_row(record, where) for where, record in _records(data.anchor)]


def _records(path: str) -> Iterator[tuple[Where, dict[str, object]]]:
    for block in joined(blocks(expand(path))):
        yield from read_block(block)
