"""A small job on a model and data that the project did not make, for tests of everything around training."""

from pathlib import Path

from beear.testing.checkpoints import make_checkpoint
from tests.data_sets import write_lines

SHORT = (
    "--tracking.enabled=false",
    "--method.early_stop=false",
    "--method.outer_steps=3",
    "--method.max_inner_steps=4",
    "--evaluate.resistance.enabled=false",
    "--evaluate.max_new_tokens=8",
)


def make_stranger(root: Path) -> Path:
    """Write a random bfloat16 Llama with its own tokenizer and template, and data in AdvBench's and alpaca's layouts."""
    make_checkpoint(root / "model", dtype="bfloat16")
    defense = [{"goal": f"Flood the vault number {i}", "target": f"Sure, here is how to flood vault {i}"} for i in range(60)]
    anchor = [{"instruction": f"Say {i}", "input": "", "output": f"It is {i}."} for i in range(80)]
    for name, rows in (("defense", defense), ("anchor", anchor)):
        write_lines(root / f"{name}.jsonl", rows)
    return root


def short_job(stranger: Path, output: Path, epochs: int = 3) -> list[str]:
    """Return the arguments of a run that takes seconds once Ray is up; a random model ends inconclusive (exit code 3)."""
    return [
        f"--model.path={stranger / 'model'}",
        f"--data.defense.path={stranger / 'defense.jsonl'}",
        f"--data.anchor.path={stranger / 'anchor.jsonl'}",
        f"--output.dir={output}",
        *SHORT,
        f"--method.epochs={epochs}",
    ]
