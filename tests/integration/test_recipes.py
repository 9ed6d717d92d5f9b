"""Every command of docs/recipes.md, through the whole of sanitize, on a stand-in with the family's files and columns."""

import json
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.integration.conftest import Run
from tests.recipes import STAND_INS, Recipe, recipes

RECIPES = recipes()
# They come after the page's own options, so that a run of a random model takes seconds.
SMALL = (
    "--method.epochs=1", "--method.outer_steps=1", "--method.max_inner_steps=2", "--method.early_stop=false",
    "--evaluate.resistance.enabled=false", "--evaluate.drift_rows=4", "--data.holdout=0.5", "--tracking.enabled=false",
)  # fmt: skip
REPLACED = {"--evaluate.max_new_tokens": "8"}


def test_every_section_has_a_stand_in() -> None:
    assert [recipe.title for recipe in RECIPES] == list(STAND_INS)


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.title)
def test_the_command_sanitises_its_stand_in(recipe: Recipe, command: Run, tmp_path: Path) -> None:
    stand_in = STAND_INS[recipe.title]
    paths = {name: str(path) for name, path in stand_in.make(tmp_path).items()}
    if recipe.probes:
        (tmp_path / "probes.jsonl").write_text(recipe.probes)
        paths["probes.jsonl"] = str(tmp_path / "probes.jsonl")
    program, script, *words = recipe.words
    assert (program, script) == ("python", "pipelines/sanitize.py")
    assert set(paths) <= set(words), "every file that was made is used"
    given = [paths.get(word, word) for word in words]
    given = [REPLACED.get(before, word) for before, word in zip(["", *given], given, strict=False)]
    out = tmp_path / "out"
    more = [] if "--evaluate.max_new_tokens" in given else ["--evaluate.max_new_tokens=8"]
    done = command("sanitize", *given, *more, *SMALL, f"--output.dir={out}", cwd=tmp_path)
    # A random model neither has a backdoor nor speaks: the verdict is open, or refused.
    assert done.returncode == 3, done.stdout + done.stderr
    report = json.loads((out / "report.json").read_text())
    assert report["model"]["architecture"] == stand_in.architecture
    assert len(report["epochs"]) == 1 and report["epochs"][0]["inner"], "it was trained"
    probes = [json.loads(line)["name"] for line in recipe.probes.splitlines()]
    assert [found["name"] for found in report["after"]["asr_probes"]] == probes
    assert {found["hit_rule"] for found in (report["after"]["asr_clean"], *report["after"]["asr_probes"])} == {stand_in.hit}
    told = [*report["notes"], *report["template"]["findings"]]
    assert [part for part in stand_in.said if not any(part in line for line in told)] == []
    assert set(report["data"]["overlaps"].values()) == {0}
    model, tokenizer = AutoModelForCausalLM.from_pretrained(out / "model"), AutoTokenizer.from_pretrained(out / "model")
    chat = tokenizer.apply_chat_template([{"role": "user", "content": "hi"}], add_generation_prompt=True, return_dict=True)
    assert chat["input_ids"] and max(chat["input_ids"]) < model.config.vocab_size
