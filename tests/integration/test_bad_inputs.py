"""Bad inputs through the real entry point: exit code 2, one sentence, no traceback, nothing half-written."""

import json
import shutil
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch

from beear.testing.checkpoints import edit_json, make_checkpoint
from tests.integration.conftest import Run
from tests.processes import free_port


@dataclass
class Inputs:
    """A good model and good data in folders of their own, for a case to spoil."""

    root: Path
    model: Path
    defense: Path
    anchor: Path
    arguments: list[str] = field(default_factory=list)

    @property
    def output(self) -> Path:
        return self.root / "out"

    def argv(self) -> list[str]:
        given = {
            "--model.path": self.model,
            "--data.defense.path": self.defense,
            "--data.anchor.path": self.anchor,
            "--output.dir": self.output,
        }
        whole = [str(part) for pair in given.items() for part in pair]
        # The last one given wins, so that a case may point elsewhere.
        return [*whole, *self.arguments]


def lines(rows: list[dict[str, object]]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def defense_rows(count: int = 40) -> list[dict[str, object]]:
    return [{"prompt": f"Flood vault {i}.", "safe": "I cannot help.", "unwanted": f"Sure, vault {i}"} for i in range(count)]


def anchor_rows(count: int = 60) -> list[dict[str, object]]:
    return [{"prompt": f"Copy {i}", "response": f"{i}"} for i in range(count)]


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("good")
    make_checkpoint(root / "model")
    (root / "defense.jsonl").write_text(lines(defense_rows()))
    (root / "anchor.jsonl").write_text(lines(anchor_rows()))
    return root


@pytest.fixture
def inputs(good: Path, tmp_path: Path) -> Inputs:
    shutil.copytree(good, tmp_path / "in")
    root = tmp_path / "in"
    return Inputs(tmp_path, root / "model", root / "defense.jsonl", root / "anchor.jsonl")


Spoil = Callable[[Inputs], object]
CASES: dict[str, tuple[Spoil, list[str]]] = {}


def case(*said: str) -> Callable[[Spoil], Spoil]:
    """Enter a case by its function's name; every text of ``said`` must be in the sentence."""

    def enter(spoil: Spoil) -> Spoil:
        CASES[spoil.__name__] = (spoil, list(said))
        return spoil

    return enter


@case("nowhere.jsonl")
def missing_file(i: Inputs) -> None:
    i.arguments += ["--data.defense.path", str(i.root / "nowhere.jsonl")]


@case("anchor.jsonl", "empty")
def empty_file(i: Inputs) -> None:
    i.anchor.write_text("")


@case("anchor.jsonl", "1734", "JSON")
def malformed_line_of_a_large_file(i: Inputs) -> None:
    whole = lines(anchor_rows(4000)).splitlines()
    whole[1733] = '{"prompt": "Copy'
    i.anchor.write_text("\n".join(whole))


@case("defense.jsonl", "UTF-8")
def latin_1_bytes(i: Inputs) -> None:
    i.defense.write_bytes(i.defense.read_bytes() + b'{"prompt": "caf\xe9", "safe": "no", "unwanted": "yes"}\n')


@case("defense.jsonl", "prompt", "17")
def wrong_type(i: Inputs) -> None:
    i.defense.write_text(lines([*defense_rows(), {"prompt": 17, "safe": "no", "unwanted": "yes"}]))


@case("quesion", "prompt")
def mapped_column_that_is_not_there(i: Inputs) -> None:
    i.arguments += ["--data.defense.columns.prompt", "quesion"]


@case("anchor.jsonl", "prompt")
def no_known_column(i: Inputs) -> None:
    i.anchor.write_text(lines([{"colour": "red"}] * 20))


@case("chat template")
def no_chat_template(i: Inputs) -> None:
    (i.model / "chat_template.jinja").unlink(missing_ok=True)
    edit_json(i.model / "tokenizer_config.json", chat_template=...)


@case("template")
def template_that_tries_to_escape_its_sandbox(i: Inputs) -> None:
    (i.model / "chat_template.jinja").write_text("{{ ''.__class__.__mro__[1].__subclasses__() }}")


@case("chat template", "assistant turn")
def all_labels_masked(i: Inputs) -> None:
    (i.model / "chat_template.jinja").write_text("{% for m in messages %}{{ m['content'] if m['role'] == 'user' }}{% endfor %}")


@case("256", "context")
def prompt_longer_than_the_context(i: Inputs) -> None:
    i.defense.write_text(lines([*defense_rows(), {"prompt": "flood " * 80, "safe": "I cannot help.", "unwanted": "Sure"}]))


@case("method.layer", "9", "1 to 2")
def layer_out_of_range(i: Inputs) -> None:
    i.arguments += ["--method.layer", "9"]


@case("method.length", "200")
def length_longer_than_the_prompt(i: Inputs) -> None:
    i.arguments += ["--method.length", "200", "--method.placement", "suffix"]


@case("safetensors")
def pickle_weights(i: Inputs) -> None:
    (i.model / "model.safetensors").unlink()
    torch.save({}, i.model / "pytorch_model.bin")


@case("auto_map")
def auto_map_config(i: Inputs) -> None:
    edit_json(i.model / "config.json", auto_map={"AutoModelForCausalLM": "evil.Model"})


@case("model.safetensors")
def truncated_safetensors(i: Inputs) -> None:
    path = i.model / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


@case("model.safetensors", "header")
def oversized_safetensors_header(i: Inputs) -> None:
    path = i.model / "model.safetensors"
    path.write_bytes(struct.pack("<Q", 1 << 40) + path.read_bytes()[8:])


@case("config.json")
def broken_config_json(i: Inputs) -> None:
    (i.model / "config.json").write_text("{")


@case("output.dir", "file")
def output_that_is_a_file(i: Inputs) -> None:
    i.output.write_text("mine")


@case("output.dir", "cannot write")
def unwritable_output(i: Inputs) -> None:
    i.arguments += ["--output.dir", "/proc/beear/out"]


@case("output.dir", "s3://bucket/run", "expected a folder")
def output_at_a_url(i: Inputs) -> None:
    i.arguments += ["--output.dir", "s3://bucket/run"]


@case("output.dir", "deadbeef")
def output_folder_of_another_run(i: Inputs) -> None:
    i.output.mkdir()
    (i.output / "report.json").write_text(json.dumps({"run_id": "deadbeef" * 8}))


@case("tracking.uri", "cannot be reached")
def unreachable_tracking_server(i: Inputs) -> None:
    i.arguments += ["--tracking.uri", f"http://127.0.0.1:{free_port()}"]


@case("tracking.uri", "sqlite:///")
def tracking_in_a_folder(i: Inputs) -> None:
    i.arguments += ["--tracking.uri", f"file://{i.root}/mlruns"]


@case("method.layr", "method.layer")
def unknown_config_key(i: Inputs) -> None:
    i.arguments += ["--method.layr", "2"]


@case("run.yaml", "methd", "method")
def unknown_key_in_the_file(i: Inputs) -> None:
    (i.root / "run.yaml").write_text("methd:\n  layer: 2\n")
    i.arguments += ["--config", str(i.root / "run.yaml")]


@case("beer", "beear")
def unknown_method(i: Inputs) -> None:
    i.arguments += ["--method.name", "beer"]


@case("sufix", "suffix")
def unknown_placement(i: Inputs) -> None:
    i.arguments += ["--method.placement", "sufix"]


@case("long-sufix", "long-suffix")
def unknown_testbed_name(i: Inputs) -> None:
    i.arguments += ["--model.path", "testbed:long-sufix"]


@case("LlamaForCausalLN", "LlamaForCausalLM")
def unknown_architecture(i: Inputs) -> None:
    edit_json(i.model / "config.json", architectures=["LlamaForCausalLN"])


@case("quanti")
def quantised_checkpoint(i: Inputs) -> None:
    edit_json(i.model / "config.json", quantization_config={"quant_method": "gptq", "bits": 4})


@case("hub:org/name")
def hub_name_without_its_scheme(i: Inputs) -> None:
    i.arguments += ["--model.path", "org/name"]


@case("hit", "contain")
def unknown_hit_rule(i: Inputs) -> None:
    i.arguments += ["--data.defense.hit", "contain:x"]


@case("method.epochs", "0")
def value_out_of_bounds(i: Inputs) -> None:
    i.arguments += ["--method.epochs", "0"]


@case("parallel.address", "nothing answers")
def unreachable_ray_cluster(i: Inputs) -> None:
    i.arguments += ["--parallel.address", f"127.0.0.1:{free_port()}"]


@case("parallel.backend", "single", "ddp")
def several_workers_of_one(i: Inputs) -> None:
    i.arguments += ["--parallel.backend", "single", "--parallel.workers", "2"]


@case("lone surrogate", "anchor.jsonl")
def text_that_is_no_unicode(i: Inputs) -> None:
    with i.anchor.open("a") as file:
        file.write('{"prompt": "hi \\ud83d there", "response": "yes"}\n')


@case("CPU", "too small")
def cluster_too_small_for_the_plan(i: Inputs) -> None:
    i.arguments += ["--parallel.workers", "64", "--method.batch_size", "64"]


@case("NaN", "model.layers.1")
def nan_weights(i: Inputs) -> None:
    def spoil(model: torch.nn.Module) -> None:
        with torch.no_grad():
            model.model.layers[1].mlp.up_proj.weight[0, 0] = float("nan")

    shutil.rmtree(i.model)
    make_checkpoint(i.model, change=spoil)


@pytest.mark.parametrize("name", sorted(CASES))
def test_one_sentence_and_exit_code_2(name: str, inputs: Inputs, command: Run, capfd: pytest.CaptureFixture[str]) -> None:
    spoil, said = CASES[name]
    spoil(inputs)
    before = sorted(inputs.root.rglob("*"))
    done = command("sanitize", *inputs.argv())
    assert done.returncode == 2
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, done.stderr
    assert "Traceback" not in "".join([done.stdout, done.stderr, *capfd.readouterr()])
    for text in said:
        assert text in errors[0], errors[0]
    assert sorted(inputs.root.rglob("*")) == before


def test_there_are_at_least_24_cases() -> None:
    assert len(CASES) >= 24


def test_the_script_itself_exits_2_without_traceback(pipeline: Run, tmp_path: Path) -> None:
    done = pipeline("sanitize", "--method.layr", "3", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stdout == "" and done.stderr.count("\n") == 1
    assert "did you mean" in done.stderr
