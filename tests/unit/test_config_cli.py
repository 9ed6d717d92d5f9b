"""The command line and its YAML: values land in their fields, and every mistake is one clear sentence."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from beear.config.cli import Flags, help_text, parse
from beear.config.fields import leaves
from beear.errors import UserError
from beear.methods.configuration import run_config, tune_config
from tests.checkout import ROOT

RUN = run_config()


def read(*words: str) -> Any:
    return parse(RUN, words, "")[0]


def problem(*words: str) -> str:
    with pytest.raises(UserError) as caught:
        read(*words)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_nothing_given_is_the_defaults() -> None:
    assert parse(RUN, [], "") == (RUN(), Flags(False, False, None))


def test_overrides_are_read_by_type() -> None:
    config = read(
        *("--method.inner_lr", "1e-1", "--method.bound", "2.5", "--method.layer", "3", "--tracking.enabled", "false"),
        *("--data.defense.columns.prompt=question", "--method.placement=suffix+everywhere", "--method.margin", "-1"),
        *("--data.refusal=--no a=b", "--seed", "7", "--adapter.kind", "none"),
    )
    assert (config.method.inner_lr, config.method.bound, config.method.layer) == (0.1, 2.5, 3)
    assert config.tracking.enabled is False
    assert config.data.defense.columns.prompt == "question"
    assert config.method.placements == ("suffix", "everywhere")
    assert (config.method.margin, config.data.refusal, config.seed) == (-1.0, "--no a=b", 7)
    assert config.adapter.kind == "none"


def test_every_choice_and_every_default_can_be_typed() -> None:
    for name, spec in leaves(RUN).items():
        words = [str(choice) for choice in spec.choices]
        if spec.simple and spec.default is not None:
            words.append(spec.shown_default)
        for word in words:
            value: object = read(f"--{name}={word}")
            for part in name.split("."):
                value = getattr(value, part)
            assert str(value).lower() == word.lower(), name


@pytest.mark.parametrize(("written", "meant"), [("on", "on"), ("off", "off"), ('"on"', "on"), ("auto", "auto")])
def test_on_and_off_are_words_in_a_file_too(tmp_path: Path, written: str, meant: str) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(f"parallel:\n  checkpoint_activations: {written}\n")
    assert read("--config", str(file)).parallel.checkpoint_activations == meant


def test_flags_and_fresh() -> None:
    config, flags = parse(RUN, ["--dry-run", "--fresh", "--verbose"], "")
    assert flags == Flags(dry_run=True, verbose=True, config_path=None)
    assert config.output.fresh
    assert read("--output.fresh").output.fresh
    assert read("--output.fresh", "--seed", "1").output.fresh


def test_fresh_is_unknown_where_there_is_no_such_field() -> None:
    class Small(BaseModel):
        size: int = 1

    with pytest.raises(UserError, match="unknown option --fresh"):
        parse(Small, ["--fresh"], "")
    with pytest.raises(UserError) as caught:
        parse(RUN, ["--resume"], "")
    assert "unknown option --resume" in str(caught.value) and 'did you mean "--resume"' not in str(caught.value)
    assert parse(tune_config(), ["--resume"], "")[1].resume


def test_the_command_line_wins_over_the_file_and_none_resets(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("method:\n  layer: 4\n  bound: 0.5\n  inner_lr: 1e-2\n  epochs: 9\ndata:\n")
    config: Any
    config, flags = parse(
        RUN, ["--config", str(file), "--method.layer", "auto", "--method.bound=none", "--method.epochs", "2"], ""
    )
    assert (config.method.layer, config.method.bound, config.method.epochs) == (None, None, 2)
    assert config.method.inner_lr == 0.01
    assert config.data == RUN().data
    assert flags.config_path == str(file)


def test_the_last_of_several_values_stands() -> None:
    assert read("--seed", "1", "--seed=2").seed == 2


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--method.inner_step", "3"], 'unknown option --method.inner_step (did you mean "method.inner_steps"?)'),
        (["--inner-steps=3"], 'unknown option --inner-steps (did you mean "method.inner_steps"?)'),
        (["--dryrun"], 'unknown option --dryrun (did you mean "--dry-run"?)'),
        (["--modle.path", "x"], 'unknown option --modle.path (did you mean "model.path"?)'),
        (["--qqqqqq", "1"], "unknown option --qqqqqq; --help lists every field"),
        (["--method", "beear"], "--method is a section; expected one of its fields, such as --method.name"),
        (["beear"], 'unexpected "beear" on the command line; expected --section.field value'),
        (["--method.epochs"], "--method.epochs has no value; expected a whole number, at least 1"),
        (["--method.epochs", "--verbose"], "--method.epochs has no value; expected a whole number, at least 1"),
        (["--config"], "--config has no value; expected a YAML file"),
        (
            ["--method.layer", "0"],
            'command line: method.layer is "0"; expected a whole number, at least 1, or auto',
        ),
        (["--method.clip", "inf"], 'command line: method.clip is "inf"; expected a finite number, above 0'),
        (["--method.inner_lr", "nan"], 'command line: method.inner_lr is "nan"; expected a finite number, above 0'),
        (["--adapter.kind", "full"], 'command line: adapter.kind is "full"; expected none or lora'),
        (
            ["--evaluate.confidence", "1"],
            'command line: evaluate.confidence is "1"; expected a number, above 0.5, below 1',
        ),
        (["--output.fresh=maybe"], 'command line: output.fresh is "maybe"; expected true or false'),
        (["--data.holdout", "none"], 'command line: data.holdout is "none"; expected a number, at least 0, below 1'),
        (
            ["--method.name", "bear"],
            'command line: method.name: unknown method "bear" (did you mean "beear"?); expected beear or finetune',
        ),
        (
            ["--method.placement", "suffix+sufix"],
            'command line: method.placement: unknown placement "sufix" (did you mean "suffix"?); '
            "expected suffix, prefix, prompt, broadcast, everywhere, or several joined by +",
        ),
        (
            ["--method.weights.removal=0", "--method.weights.anchor=0"],
            "method.weights.removal and method.weights.anchor are both 0; expected one above 0, or removal has no loss",
        ),
        (
            ["--evaluate.judge.url", "http://localhost:1"],
            "evaluate.judge.model is not set but evaluate.judge.url is; expected both or neither",
        ),
        (
            ["--evaluate.resistance.layers", "0,x"],
            'command line: evaluate.resistance.layers: found "0,x"; expected auto, or layers from 1 separated by commas',
        ),
    ],
)
def test_a_mistake_on_the_command_line_is_one_sentence(words: list[str], sentence: str) -> None:
    assert problem(*words) == sentence


def test_all_mistakes_are_told_each_once(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("modle:\n  path: x\nmethod:\n  clip: true\n  clean_share: 2\ndata:\n  bucket: 0\n")
    words = ["stray", "--method.inner_step", "3", "--method.epochs", "2.5", "--adapter.kind", "--gate.asr=2"]
    with pytest.raises(UserError) as caught:
        read("--config", str(file), *words)
    told = [
        'unexpected "stray" on the command line; expected --section.field value',
        'unknown option --method.inner_step (did you mean "method.inner_steps"?)',
        "--adapter.kind has no value; expected none or lora",
        f'{file}, line 1: unknown field modle (did you mean "model"?)',
        f"{file}, line 4: method.clip is true; expected a number, above 0",
        f"{file}, line 5: method.clean_share is 2; expected a number, at least 0, at most 1",
        f"{file}, line 7: data.bucket is 0; expected a whole number, at least 1, or auto",
        'command line: method.epochs is "2.5"; expected a whole number, at least 1',
        'command line: gate.asr is "2"; expected a number, at least 0, at most 1',
    ]
    assert sorted(caught.value.args) == sorted(told)
    assert str(caught.value).splitlines() == list(caught.value.args)


def test_a_file_that_is_missing_hides_no_other_mistake(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        read("--config", str(tmp_path / "none.yaml"), "--seed", "x")
    assert list(caught.value.args) == [
        f"{tmp_path / 'none.yaml'}: no such file; expected a YAML file",
        'command line: seed is "x"; expected a whole number, at least 0, below 9.22337e+18',
    ]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("method:\n  epoch: 2\n", 'FILE, line 2: unknown field method.epoch (did you mean "method.epochs"?)'),
        ("seed: 1\nmodle:\n  path: x\n", 'FILE, line 2: unknown field modle (did you mean "model"?)'),
        (
            "seed: 1\n\nmethod:\n  epochs: x\n",
            'FILE, line 4: method.epochs is "x"; expected a whole number, at least 1',
        ),
        ("method:\n  epochs: true\n", "FILE, line 2: method.epochs is true; expected a whole number, at least 1"),
        ("method:\n  epochs: null\n", "FILE, line 2: method.epochs is null; expected a whole number, at least 1"),
        ("method:\n  epochs: [1]\n", "FILE, line 2: method.epochs is a list; expected a whole number, at least 1"),
        (
            "evaluate:\n  resistance:\n    layers: 2\n",
            'FILE, line 3: evaluate.resistance.layers is 2; expected text (write it in quotes: "2")',
        ),
        (
            "method: beear\n",
            "FILE, line 1: method is a section; expected one of its fields, such as method.name",
        ),
        ("seed:\n  a: 1\n", "FILE, line 1: seed is a mapping; expected a whole number, at least 0, below 9.22337e+18"),
        ("seed: 1\nseed: 2\n", 'FILE, line 2: key "seed" given twice (first on line 1); expected YAML'),
        ("- a\n- b\n", "FILE, line 1: found a list; expected a mapping of sections"),
        ("just words\n", 'FILE, line 1: found "just words"; expected a mapping of sections'),
        ("a: [1,\nb: 2\n", "FILE, line 3: expected ',' or ']', but got '<stream end>'; expected YAML"),
        (
            "a: !!python/object:os.system {}\n",
            "FILE, line 1: could not determine a constructor for the tag "
            "'tag:yaml.org,2002:python/object:os.system'; expected YAML",
        ),
        ("a: 1\n---\nb: 2\n", "FILE, line 2: but found another document; expected YAML"),
        ("seed: 1\nx: \0\n", "FILE, line 2: special characters are not allowed; expected YAML"),
        ("a: " + "[" * 3000, "FILE: nested too deeply; expected a mapping of sections"),
    ],
)
def test_a_mistake_in_the_file_names_its_line(tmp_path: Path, text: str, sentence: str) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(text)
    assert problem("--config", str(file)) == sentence.replace("FILE", str(file))


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    latin = tmp_path / "latin.yaml"
    latin.write_bytes("seed: 1\ndata:\n  refusal: désolé\n".encode("latin-1"))
    assert problem("--config", str(latin)) == f"{latin}, line 3: byte 0xe9 is not UTF-8; expected a UTF-8 file"
    assert problem("--config", str(tmp_path)) == f"{tmp_path}: Is a directory; expected a YAML file"
    assert problem("--config=no.yaml") == "no.yaml: no such file; expected a YAML file"


def test_files_with_a_byte_order_mark_and_aliases_are_read(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_bytes("\ufeffgate: &x {asr: 0.1}\n".encode())
    assert read("--config", str(file)).gate.asr == 0.1
    file.write_text("gate: &x\n  asr: *x\n")
    assert problem("--config", str(file)).endswith("gate.asr is a mapping; expected a number, at least 0, at most 1")


@given(st.lists(st.text(max_size=20), max_size=5))
def test_no_words_crash_the_parser(words: list[str]) -> None:
    if not {"-h", "--help"} & set(words) and not any(word.startswith("--config") for word in words):
        try:
            read(*words)
        except UserError as error:
            assert all("\n" not in sentence for sentence in error.args) or any("\n" in word for word in words)


@given(st.sampled_from(sorted(leaves(RUN))), st.text(max_size=12))
def test_every_field_takes_a_word_or_says_why_not(name: str, value: str) -> None:
    try:
        read(f"--{name}={value}")
    except UserError as error:
        assert name in str(error) or "evaluate.judge" in str(error)


def test_help_names_every_field_with_default_and_meaning() -> None:
    text = " ".join(help_text(RUN, "What it does.", width=120).split())
    assert text.startswith("What it does.")
    for name, spec in leaves(RUN).items():
        assert f"--{name} [{spec.shown_default}] {spec.description}" in text, name
    assert "--method.layer [auto]" in text
    assert "--method.bound [unset]" in text
    assert "--tracking.enabled [true]" in text


@pytest.mark.parametrize("width", [60, 80, 100, 120])
def test_help_keeps_to_the_terminals_width(width: int) -> None:
    lines = help_text(RUN, "", width).splitlines()
    assert max(len(line) for line in lines if "[" not in line) <= width


def test_help_leaves_with_code_0_before_anything_heavy_is_loaded() -> None:
    script = (
        "import sys\nfrom beear.config.cli import parse\nfrom beear.methods.configuration import run_config\n"
        "try:\n    parse(run_config(), ['--seed', 'x', '--help'], 'hello')\n"
        "except SystemExit as end:\n    print(end.code, sorted({'torch', 'ray', 'numpy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("hello")
    assert done.stdout.rstrip().endswith("0 []")


def test_every_field_says_what_it_is() -> None:
    assert [name for name, spec in leaves(RUN).items() if len(spec.description) < 5] == []
