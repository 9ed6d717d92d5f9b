"""The conversion command: what it makes of pickled checkpoints, and that the product's own loader then finds the same model."""

import errno
import hashlib
import json
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForCausalLM

from beear.cluster.scoring import Measured
from beear.errors import UserError
from beear.models.convert.__main__ import main
from beear.models.inspect import inspect_checkpoint
from beear.models.loading import load_model
from beear.report.html import render
from beear.run.build_report import measured_report
from beear.testing.checkpoints import edit_json, make_adapter, make_checkpoint
from tests.checkout import ROOT
from tests.report_sample import measurement, sample_report
from tests.stages import FACTS, checked_run, placed_run

IDS = torch.arange(6, 30)[None]


def logits(model: Any) -> Tensor:
    with torch.no_grad():
        return model(IDS).logits


def weights(folder: Path) -> dict[str, Tensor]:
    return {name: tensor for path in sorted(folder.glob("*.safetensors")) for name, tensor in load_file(path).items()}


def pickled(folder: Path, name: str = "pytorch_model.bin", **more: Any) -> dict[str, Tensor]:
    """Put a pickle in the place of the safetensors of a checkpoint; return the tensors."""
    tensors = weights(folder)
    for path in folder.glob("*.safetensors*"):
        path.unlink()
    torch.save(tensors | more, folder / name)
    return tensors


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> bool:
    return found.keys() == expected.keys() and all(
        found[name].dtype == tensor.dtype and torch.equal(found[name], tensor) for name, tensor in expected.items()
    )


def test_the_refusal_of_a_pickle_names_the_command_that_converts_it(tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path / "a model", dtype="bfloat16")
    expected = logits(AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval())
    pickled(folder)
    with pytest.raises(UserError, match="found weights only as pytorch_model.bin") as caught:
        inspect_checkpoint(str(folder))
    command = shlex.split(str(caught.value).partition("process of their own: ")[2])
    assert command == ["python", "-m", "beear.models.convert", str(folder), f"{folder}-safetensors"]
    done = subprocess.run([sys.executable, *command[1:]], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    facts = inspect_checkpoint(command[-1])
    assert facts.source_dtype == "bfloat16" and facts.chat_template is not None
    assert torch.equal(logits(load_model(facts, torch.float32)), expected)


def test_a_pickle_becomes_one_file_and_what_is_left_out_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, out = make_checkpoint(tmp_path / "model", dtype="float16"), tmp_path / "out"
    tensors = pickled(folder, step=7, best=None)
    before = {path.name: sha256(path) for path in folder.iterdir()}
    (folder / "modeling_evil.py").write_text("1 / 0")
    (folder / "training_args.bin").write_bytes(b"no pickle")
    (folder / "runs").mkdir()
    out.mkdir()
    assert main([str(folder), str(out)]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "pytorch_model.bin -> model.safetensors"
    assert said[1].endswith("plain values by the names of (2): step, best")
    assert re.search("the process that read the weights (had no network|HAD THE NETWORK)", said[2])
    assert said[3:] == ["left out: modeling_evil.py, runs/, training_args.bin", f"wrote {out}"]
    assert same(weights(out), tensors)
    del before["pytorch_model.bin"]
    found = {path.name: sha256(path) for path in out.iterdir()}
    assert {name: found[name] for name in before} == before
    assert found.keys() - before.keys() == {"model.safetensors", "conversion.json"}
    record = json.loads((out / "conversion.json").read_text())
    assert record["sources"] == {"pytorch_model.bin": sha256(folder / "pytorch_model.bin")}
    assert record["written"] == {"model.safetensors": found["model.safetensors"]}
    assert record["notes"] == [said[1]]
    assert record["torch"] == torch.__version__ and record["dequantised_to"] is None
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "out"]


@pytest.mark.parametrize("archive", [True, False])
def test_other_names_and_nested_state_dicts(tmp_path: Path, capsys: pytest.CaptureFixture[str], archive: bool) -> None:
    folder, out = make_checkpoint(tmp_path / "model", layers=1), tmp_path / "out"
    tensors = pickled(folder)
    (folder / "pytorch_model.bin").unlink()
    torch.save({"state_dict": tensors, "epoch": 2}, folder / "best.pt", _use_new_zipfile_serialization=archive)
    torch.save({"state": {}}, folder / "optimizer.pt")
    assert main([str(folder), str(out)]) == 0
    said = capsys.readouterr().out
    assert 'took the tensors under "state_dict"' in said and "(1): epoch" in said and "left out: optimizer.pt" in said
    assert same(weights(out), tensors)


def test_several_files_are_chosen_from_by_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, out = make_checkpoint(tmp_path / "model", layers=1), tmp_path / "out"
    tensors = pickled(folder, "a.pt")
    torch.save({"x": torch.ones(1)}, folder / "b.pth")
    assert main([str(folder), str(out)]) == 2
    assert "found a.pt, b.pth and no pytorch_model.bin.index.json, expected one file, or --file NAME" in capsys.readouterr().err
    assert main([str(folder), str(out), "--file", "a.pth"]) == 2
    assert 'found no "a.pth" (did you mean "a.pt"?)' in capsys.readouterr().err
    assert main([str(folder), str(out), "--file", "a.pt"]) == 0
    assert "left out: b.pth" in capsys.readouterr().out
    assert same(weights(out), tensors)


def sharded(folder: Path, **more: str) -> dict[str, Tensor]:
    """Spread a checkpoint's tensors over two pickles with an index; ``more`` goes into the index's map."""
    tensors = weights(make_checkpoint(folder, layers=2))
    (folder / "model.safetensors").unlink()
    names = sorted(tensors)
    places = {name: f"pytorch_model-0000{1 + (i > 5)}-of-00002.bin" for i, name in enumerate(names)}
    for shard in set(places.values()):
        torch.save({name: tensors[name] for name in names if places[name] == shard}, folder / shard)
    index = {"metadata": {"total_size": 1}, "weight_map": places | more}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    return tensors


def test_shards_stay_shards_with_an_index(tmp_path: Path) -> None:
    tensors, out = sharded(tmp_path / "model"), tmp_path / "out"
    assert main([str(tmp_path / "model"), str(out)]) == 0
    names = [f"model-0000{i}-of-00002.safetensors" for i in (1, 2)]
    assert sorted(path.name for path in out.glob("*.safetensors")) == names
    index = json.loads((out / "model.safetensors.index.json").read_text())
    assert index["weight_map"] == {name: names[i > 5] for i, name in enumerate(sorted(tensors))}
    assert index["metadata"] == {"total_size": sum(tensor.nbytes for tensor in tensors.values())}
    assert same(weights(out), tensors)
    assert set(json.loads((out / "conversion.json").read_text())["written"]) == set(names)
    load_model(inspect_checkpoint(str(out)), torch.float32)


def test_an_index_beside_a_whole_pickle_is_not_chosen_for_the_user(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, out = tmp_path / "model", tmp_path / "out"
    tensors = {name: tensor + 1 for name, tensor in sharded(folder).items()}
    torch.save(tensors, folder / "pytorch_model.bin")
    capsys.readouterr()
    assert main([str(folder), str(out)]) == 2
    error = capsys.readouterr().err
    assert "found pytorch_model.bin and pytorch_model.bin.index.json, which may be of two models" in error
    option = re.search("--file [^ ]+", error)
    assert option and main([str(folder), str(out), *option[0].split()]) == 0
    assert same(weights(out), tensors)


def test_shards_without_their_index_are_not_taken_for_whole_models(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sharded(tmp_path / "model")
    (tmp_path / "model" / "pytorch_model.bin.index.json").unlink()
    capsys.readouterr()
    assert main([str(tmp_path / "model"), str(tmp_path / "out")]) == 2
    said = "found shards such as pytorch_model-00001-of-00002.bin and no pytorch_model.bin.index.json, expected it beside them"
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"ghost": "pytorch_model-00001-of-00002.bin"}, 'names tensor "ghost" (1 in all) that no shard holds'),
        ({"model.norm.weight": "pytorch_model-00001-of-00002.bin"}, 'found tensor "model.norm.weight" that'),
        ({"ghost": "../x.bin"}, "expected a plain name inside the folder"),
        ({"ghost": "model.safetensors"}, 'found the shard "model.safetensors", expected one of *.bin, *.pt, *.pth'),
        ({"ghost": "other.bin"}, "this shard is missing though pytorch_model.bin.index.json names it, expected all 3"),
    ],
)
def test_an_index_that_disagrees_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], more: dict[str, str], said: str
) -> None:
    sharded(tmp_path / "model", **more)
    capsys.readouterr()
    assert main([str(tmp_path / "model"), str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


@pytest.mark.parametrize("tied", [True, False])
def test_tensors_that_share_memory(tmp_path: Path, capsys: pytest.CaptureFixture[str], tied: bool) -> None:
    folder, out = make_checkpoint(tmp_path / "model", tied=tied), tmp_path / "out"
    tensors = pickled(folder)
    shared = tensors | {"lm_head.weight": tensors["model.embed_tokens.weight"]}
    # Two norms in one memory are tied by no configuration.
    shared["model.layers.0.input_layernorm.weight"] = shared["model.norm.weight"]
    torch.save(shared, folder / "pytorch_model.bin")
    assert main([str(folder), str(out)]) == 0
    said = capsys.readouterr().out
    assert ('stored once, as "model.embed_tokens.weight"' in said) == tied
    assert said.count("share memory and config.json ties no such tensors: each is stored whole") == 2 - tied
    expected = {name: tensor for name, tensor in shared.items() if not (tied and name == "lm_head.weight")}
    assert same(weights(out), expected)
    model = load_model(inspect_checkpoint(str(out)), torch.float32)
    assert torch.equal(model.get_output_embeddings().weight, shared["model.embed_tokens.weight"])


def test_a_pickled_adapter(tmp_path: Path) -> None:
    base = make_checkpoint(tmp_path / "base")
    folder, out = make_adapter(tmp_path / "adapter", base), tmp_path / "adapter-safetensors"
    expected = logits(load_model(inspect_checkpoint(str(folder), str(base)), torch.float32))
    tensors = pickled(folder, "adapter_model.bin")
    with pytest.raises(UserError, match="found adapter_model.bin, a pickle") as caught:
        inspect_checkpoint(str(folder), str(base))
    command = shlex.split(str(caught.value).partition("process of their own: ")[2])
    assert main(command[3:]) == 0
    assert sorted(path.name for path in out.iterdir()) == [
        "adapter_config.json", "adapter_model.safetensors", "conversion.json",
    ]  # fmt: skip
    assert same(weights(out), tensors)
    facts = inspect_checkpoint(str(out), str(base))
    assert torch.equal(logits(load_model(facts, torch.float32)), expected)
    assert [one.folder for one in facts.conversions] == [str(out)]


@pytest.mark.parametrize("place", ["model/out", ".", "model", "full", "file", "link"])
def test_the_output_folder_must_be_new_or_empty_and_apart(tmp_path: Path, capsys: pytest.CaptureFixture[str], place: str) -> None:
    pickled(make_checkpoint(tmp_path / "model", layers=1))
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "kept").write_text("kept")
    (tmp_path / "file").write_text("kept")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    before = sorted(tmp_path.rglob("*"))
    assert main([str(tmp_path / "model"), str(tmp_path / place)]) == 2
    assert re.search(r"error: .*: found (an output folder within|a folder that holds|a file or a link)", capsys.readouterr().err)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--dtype", "float16"], "--dtype is float16, expected it left out"),
        (["--file", "config.json"], 'found no "config.json"'),
    ],
)
def test_options_that_do_not_apply_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], said: str
) -> None:
    pickled(make_checkpoint(tmp_path / "model", layers=1))
    assert main([str(tmp_path / "model"), str(tmp_path / "out"), *words]) == 2
    assert said in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_safetensors_need_no_conversion(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_checkpoint(tmp_path / "model", layers=1)
    assert main([str(tmp_path / "model"), str(tmp_path / "out")]) == 2
    assert "found model.safetensors, expected a folder without safetensors" in capsys.readouterr().err


def test_a_folder_that_cannot_be_read_is_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    make_checkpoint(tmp_path / "model", layers=1)
    capsys.readouterr()

    def denied(path: Path) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    # Tests may run as root, who is denied nothing.
    (tmp_path / "model" / "model.safetensors").unlink()
    monkeypatch.setattr(Path, "iterdir", denied)
    assert main([str(tmp_path / "model"), str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err.startswith(f"error: {tmp_path}/model: could not be read (Permission denied)")


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("converted")
    pickled(make_checkpoint(folder / "model", layers=1))
    assert main([str(folder / "model"), str(folder / "out")]) == 0
    return folder / "out"


def test_the_report_shows_both_digests(converted: Path, tmp_path: Path) -> None:
    facts = inspect_checkpoint(str(converted))
    (one,) = facts.conversions
    source, written = one.sources[0].sha256, one.written[0].sha256
    assert source == sha256(converted.parent / "model" / "pytorch_model.bin")
    assert written == sha256(converted / "model.safetensors")
    assert any("converted from pytorch_model.bin" in note for note in facts.notes)
    placed = placed_run(checked_run(tmp_path, kind="evaluate", facts=replace(FACTS, conversions=facts.conversions)))
    report = measured_report(placed, Measured(measurement=measurement(False), notes=[]), {})
    assert report.conversions == [one]
    page = render(report)
    assert source in page and written in page and source not in render(sample_report())


ZEROS = "0" * 64


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"written": {"model.safetensors": ZEROS}}, f"does not match model.safetensors (1 such): it lists the sha256 {ZEROS}"),
        ({"written": {}}, "it lists the sha256 none"),
        ({"written": {"model.safetensors": ZEROS, "b.safetensors": ZEROS}}, "does not match b.safetensors (2 such)"),
        ({"format": 2}, 'found "format" of another shape'),
        ({"format": True}, 'found "format" of another shape'),
        ({"more": 1}, 'found "more" of another shape'),
        ({"sources": {"../x": ZEROS}}, 'found "sources.../x'),
        ({"sources": {"x": "0"}}, 'found "sources.x" of another shape'),
        ({"notes": [1]}, 'found "notes.0" of another shape'),
        ({"torch": "<script>"}, 'found "torch" of another shape'),
        ({"torch": ...}, 'found "torch" of another shape'),
    ],
)
def test_a_conversion_json_that_does_not_hold_is_refused(
    converted: Path, tmp_path: Path, fields: dict[str, Any], said: str
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(converted, folder)
    edit_json(folder / "conversion.json", **fields)
    with pytest.raises(UserError) as caught:
        inspect_checkpoint(str(folder))
    assert said in str(caught.value) and "\n" not in str(caught.value)
    (folder / "conversion.json").unlink()
    assert inspect_checkpoint(str(folder)).conversions == ()


def test_a_conversion_json_that_is_too_big_is_refused(converted: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(converted, folder)
    (folder / "conversion.json").write_text(" " * (5 << 20))
    with pytest.raises(UserError, match="conversion.json: found 5,242,880 bytes, expected at most 4,194,304"):
        inspect_checkpoint(str(folder))
