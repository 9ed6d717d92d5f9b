"""Every refusal of an unsafe or broken checkpoint: one sentence that names the place and what was expected."""

import errno
import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from beear.errors import UserError
from beear.models.inspect import inspect_checkpoint
from beear.testing.checkpoints import edit_json, make_checkpoint

INDEX = "model.safetensors.index.json"


class Loud:
    """Leaves a mark when it is unpickled."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (os.mkdir, ("unpickled",))


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("whole") / "model", dtype="bfloat16")


@pytest.fixture(scope="module")
def sharded(tmp_path_factory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("sharded") / "model", shards=3)


def config(**fields: object) -> Callable[[Path], None]:
    return lambda folder: edit_json(folder / "config.json", **fields)


def tokenizer(**fields: object) -> Callable[[Path], None]:
    return lambda folder: edit_json(folder / "tokenizer_config.json", **fields)


def text(name: str, value: str | bytes) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_bytes(value if isinstance(value, bytes) else value.encode()) and None


def remove(*names: str) -> Callable[[Path], None]:
    return lambda folder: [(folder / name).unlink() for name in names] and None


def generation(**fields: object) -> Callable[[Path], None]:
    return lambda folder: edit_json(folder / "generation_config.json", **fields)


def instead(name: str, make: Callable[[Path], object]) -> Callable[[Path], None]:
    """Put something that is no plain file in a file's place."""

    def change(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        make(folder / name)

    return change


def looped(path: Path) -> None:
    path.symlink_to(path.name)


def pickled(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Loud()))


def truncated(folder: Path) -> None:
    path = folder / "model.safetensors"
    os.truncate(path, path.stat().st_size - 100)


def linked_out(name: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        outside = folder.parent / f"outside-{name}"
        shutil.move(folder / name, outside)
        (folder / name).symlink_to(outside)

    return change


def mostly_integers(folder: Path) -> None:
    path = folder / "model.safetensors"
    save_file({**load_file(path), "qweight": torch.zeros(1 << 20, dtype=torch.int32)}, path)


def template_of(value: object) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        (folder / "chat_template.jinja").unlink()
        edit_json(folder / "tokenizer_config.json", chat_template=value)

    return change


WHOLE: list[tuple[str, Callable[[Path], None], str]] = [
    ("no config", remove("config.json"), "config.json: found no such file"),
    ("broken config", text("config.json", '{"model_type": '), "broken JSON at line 1"),
    ("config is a list", text("config.json", "[]"), "found a JSON list"),
    ("config of latin-1", text("config.json", b'{"a": "\xe9"}'), "not UTF-8 at offset 7"),
    ("config too big", text("config.json", " " * (5 << 20)), "expected at most 4,194,304"),
    ("config too deep", text("config.json", '{"a":' * 100_000), "nested too deeply"),
    ("auto_map", config(auto_map={"AutoModelForCausalLM": "evil.Model"}), '"auto_map"'),
    ("auto_map below", config(text_config={"auto_map": {"AutoConfig": "evil.Config"}}), '"text_config.auto_map"'),
    ("own weights file", config(transformers_weights="../other.safetensors"), '"transformers_weights"'),
    ("fusions", config(fusion_config={"a": True}), '"fusion_config"'),
    ("hub kernel", config(attn_implementation="evil/kernel"), '"attn_implementation"'),
    ("hub kernel, private", config(_attn_implementation_internal="evil/kernel"), "_attn_implementation_internal"),
    ("hub kernel, by part", config(attn_implementation={"": "a/b"}), '"attn_implementation"'),
    ("unknown architecture", config(architectures=["LlamaForCausalLN"]), 'did you mean "LlamaForCausalLM"'),
    ("encoder", config(architectures=["BertForMaskedLM"], model_type="bert"), "which is no decoder-only language model"),
    ("no architecture", config(architectures=..., model_type="evil"), "expected one of the"),
    ("model_type of another", config(model_type="mistral"), 'expected model_type "llama"'),
    ("quantised", config(quantization_config={"quant_method": "gptq"}), "method gptq"),
    ("layers of text", config(num_hidden_layers="3"), '"num_hidden_layers": 3, expected a positive whole number'),
    ("no layers", config(num_hidden_layers=0), '"num_hidden_layers": 0'),
    ("a billion layers", config(num_hidden_layers=10**9), '"num_hidden_layers" of 1,000,000,000, expected at most 10,000'),
    ("more layers than tensors", config(num_hidden_layers=9_999), "9,999 layers"),
    ("a huge vocabulary", config(vocab_size=10**12), "a vocabulary of 1,000,000,000,000"),
    ("two million labels", config(num_labels=2_000_000), '"num_labels" of 2,000,000, expected at most 10,000'),
    ("labels by name", config(id2label={str(n): "x" for n in range(10_001)}), '"id2label" of 10,001'),
    ("layers by another name", config(vision_config={"num_layers": 10**9}), '"vision_config.num_layers" of 1,000,000,000'),
    ("layers by pattern", config(attention_types=[[["global"], 10**9]]), '"attention_types[0][1]" of 1,000,000,000'),
    ("plain tuples", config(return_dict=False), '"return_dict": False, expected it left out'),
    ("attentions", config(output_attentions=True), '"output_attentions": True, expected it left out'),
    ("later tokens", config(is_causal=False), '"is_causal": False, expected it left out'),
    ("later tokens below", config(text_config={"use_bidirectional_attention": True}), "use_bidirectional_attention"),
    ("window of text", config(sliding_window="x"), '"sliding_window": x, expected a whole number'),
    ("end of text", config(eos_token_id="abc"), 'config.json: found "eos_token_id": abc, expected a token id'),
    ("end in a list", generation(eos_token_id=["a"]), 'generation_config.json: found "eos_token_id": [\'a\']'),
    ("end in a list twice", generation(eos_token_id=[[1]]), '"eos_token_id": [[1]], expected a token id'),
    ("end yes", generation(eos_token_id=True), '"eos_token_id": True, expected a token id'),
    ("end beyond any", generation(eos_token_id=10**30), '"eos_token_id": 1000'),
    ("weights are a folder", instead("model.safetensors", Path.mkdir), "model.safetensors: found no regular file"),
    ("weights are a pipe", instead("model.safetensors", os.mkfifo), "model.safetensors: found no regular file"),
    ("config is a pipe", instead("config.json", os.mkfifo), "config.json: found no regular file"),
    ("vocabulary is a pipe", instead("tokenizer.model", os.mkfifo), "tokenizer.model: found no regular file"),
    ("config loops", instead("config.json", looped), "config.json: found a link that cannot be followed"),
    ("weights loop", instead("generation_config.json", looped), "found a link that cannot be followed"),
    ("tied, maybe", config(tie_word_embeddings="yes"), "found tie_word_embeddings 'yes'"),
    ("encoder-decoder", config(is_encoder_decoder=True), "expected a decoder-only model"),
    ("no weights", remove("model.safetensors"), "found no weights"),
    ("pickle only", pickled, "found weights only as pytorch_model.bin"),
    ("truncated", truncated, "it is truncated"),
    ("header of 2 GB", text("model.safetensors", (2 << 30).to_bytes(8, "little") + b"{}"), "2,147,483,648 bytes"),
    ("no tensors", text("model.safetensors", (2).to_bytes(8, "little") + b"{}"), "found no tensors"),
    ("mostly integers", mostly_integers, "mostly I32 weights, a quantised checkpoint"),
    ("distributed", text(".metadata", b"x"), "distributed checkpoint"),
    ("both", text(INDEX, "{}"), "found both"),
    ("weights linked out", linked_out("model.safetensors"), "a link that leaves the folder"),
    ("config linked out", linked_out("config.json"), "a link that leaves the folder"),
    ("tokenizer linked out", linked_out("tokenizer.json"), "a link that leaves the folder"),
    ("generation config broken", text("generation_config.json", "{"), "generation_config.json: found broken JSON"),
    ("generation code", text("generation_config.json", '{"custom_generate": "evil/repo"}'), '"custom_generate"'),
    ("auto_map, deep", text("config.json", '{"a":' * 900 + '{"auto_map": "x"}' + "}" * 900), "auto_map"),
    ("no tokenizer", remove("tokenizer.json"), "found no tokenizer"),
    ("tokenizer broken", text("tokenizer.json", "nope"), "tokenizer.json: found broken JSON"),
    ("tokenizer's auto_map", tokenizer(auto_map={"AutoTokenizer": ["evil.T", None]}), '_config.json: found "auto_map"'),
    ("tokenizer's class", tokenizer(tokenizer_class="EvilTokenizer"), 'tokenizer_class "EvilTokenizer"'),
    ("tokenizer's class is a list", tokenizer(tokenizer_class=["a"]), "found tokenizer_class"),
    ("tokenizer's file", tokenizer(fast_tokenizer_files=["../tokenizer.4.0.json"]), '"fast_tokenizer_files"'),
    ("template is a number", template_of(3), "found chat_template 3"),
    ("template too big", text("chat_template.jinja", "x" * (2 << 20)), "expected at most 1,048,576"),
    ("template of latin-1", text("chat_template.jinja", b"\xe9"), "not UTF-8"),
    ("adapter in disguise", text("adapter_config.json", '{"base_model_name_or_path": "evil/base"}'), "PEFT adapter"),
]  # fmt: skip


@pytest.mark.parametrize("name,change,said", WHOLE, ids=[row[0] for row in WHOLE])
def test_refused_in_one_sentence(whole, tmp_path, monkeypatch, name, change, said):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "model"
    shutil.copytree(whole, folder)
    change(folder)
    with pytest.raises(UserError) as caught:
        inspect_checkpoint(str(folder))
    assert said in str(caught.value) and "\n" not in str(caught.value)
    assert not (tmp_path / "unpickled").exists()


def remap(target: str) -> Callable[[Path], None]:
    """Send the first tensor of the index to another file."""

    def change(folder: Path) -> None:
        mapping = json.loads((folder / INDEX).read_text())["weight_map"]
        edit_json(folder / INDEX, weight_map={**mapping, min(mapping): target})

    return change


def fields_of_index(**fields: object) -> Callable[[Path], None]:
    return lambda folder: edit_json(folder / INDEX, **fields)


def first_shard(folder: Path) -> Path:
    return min(folder.glob("model-*.safetensors"))


def ghost(folder: Path) -> None:
    mapping = json.loads((folder / INDEX).read_text())["weight_map"]
    edit_json(folder / INDEX, weight_map={**mapping, "ghost.weight": first_shard(folder).name})


def twice(folder: Path) -> None:
    last = max(folder.glob("model-*.safetensors"))
    held = load_file(first_shard(folder))
    save_file({**load_file(last), min(held): held[min(held)]}, last)


SHARDED: list[tuple[str, Callable[[Path], None], str]] = [
    ("climbs out", remap("../../etc/model.safetensors"), "expected a plain name"),
    ("absolute", remap("/etc/passwd"), "expected a plain name"),
    ("backslash", remap("..\\evil.safetensors"), "expected a plain name"),
    ("nul byte", remap("a\0.safetensors"), "expected a plain name"),
    ("a pickle", remap("pytorch_model.bin"), "expected *.safetensors"),
    ("missing", lambda folder: first_shard(folder).unlink(), "this shard is missing"),
    ("tensor missing", ghost, 'names tensor "ghost.weight"'),
    ("tensor twice", twice, "that another shard holds too"),
    ("no map", text(INDEX, "{}"), "weight_map"),
    ("no metadata", fields_of_index(metadata=...), '"metadata": None, expected an object'),
    ("metadata in a list", fields_of_index(metadata=[1]), '"metadata": [1], expected an object'),
    ("map of numbers", text(INDEX, '{"weight_map": {"a": 1}}'), "weight_map"),
    ("index broken", text(INDEX, '{"weight_map": '), "broken JSON"),
]


@pytest.mark.parametrize("name,change,said", SHARDED, ids=[row[0] for row in SHARDED])
def test_shards_refused_in_one_sentence(sharded, tmp_path, name, change, said):
    folder = tmp_path / "model"
    shutil.copytree(sharded, folder)
    change(folder)
    with pytest.raises(UserError) as caught:
        inspect_checkpoint(str(folder))
    assert said in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("inside", ["open", "iterdir"])
def test_a_folder_that_cannot_be_read_is_one_sentence(whole, monkeypatch, inside):
    def denied(path: Path, *_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    # Tests may run as root, who is denied nothing.
    monkeypatch.setattr(Path, inside, denied)
    with pytest.raises(UserError, match="could not be read .Permission denied."):
        inspect_checkpoint(str(whole))


def test_a_shard_linked_out_is_refused_but_a_hub_cache_is_not(sharded, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(sharded, folder)
    linked_out(first_shard(folder).name)(folder)
    with pytest.raises(UserError, match="a link that leaves the folder"):
        inspect_checkpoint(str(folder))
    cache = tmp_path / "models--org--name"
    (cache / "blobs").mkdir(parents=True)
    snapshot = cache / "snapshots" / "0123"
    snapshot.mkdir(parents=True)
    for path in sharded.iterdir():
        shutil.copy(path, cache / "blobs" / path.name)
        (snapshot / path.name).symlink_to(Path("../../blobs") / path.name)
    assert inspect_checkpoint(str(snapshot)).digests == inspect_checkpoint(str(sharded)).digests


def test_pickles_beside_safetensors_are_noted_and_never_opened(whole, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "model"
    shutil.copytree(whole, folder)
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Loud()))
    (folder / "modeling_evil.py").write_text("import os; os.mkdir('unpickled')")
    facts = inspect_checkpoint(str(folder))
    assert facts.notes == (f"{folder}: never opened: pytorch_model.bin, modeling_evil.py (safetensors and text files only)",)
    assert facts.digests == inspect_checkpoint(str(whole)).digests
    assert not (tmp_path / "unpickled").exists()


def test_weights_that_are_not_used_are_noted(whole, sharded, tmp_path):
    for name, source, read in (("one", whole, "model.safetensors"), ("many", sharded, "model-00001-of-0000")):
        folder = tmp_path / name
        shutil.copytree(source, folder)
        for extra in ("adapter_model.safetensors", "model-00009-of-00009.safetensors"):
            save_file({"x": torch.ones(1)}, folder / extra)
        (note,) = inspect_checkpoint(str(folder)).notes
        expected = f"{folder}: not used: adapter_model.safetensors, model-00009-of-00009.safetensors (the weights are {read}"
        assert note.startswith(expected)


def test_a_folder_of_checkpoints_says_which(whole, tmp_path):
    shutil.copytree(whole, tmp_path / "run" / "checkpoint-5")
    with pytest.raises(UserError, match="run: found no checkpoint but folders that hold one: checkpoint-5; expected the path"):
        inspect_checkpoint(str(tmp_path / "run"))
    assert inspect_checkpoint(str(tmp_path / "run" / "checkpoint-5")).digests == inspect_checkpoint(str(whole)).digests


def test_settings_of_generation_that_measuring_does_not_follow_are_noted(whole, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(whole, folder)
    neutral = {"repetition_penalty": 1.0, "no_repeat_ngram_size": 0, "suppress_tokens": [], "bad_words_ids": None, "num_beams": 1}
    edit_json(folder / "generation_config.json", **neutral, do_sample=True, temperature=0.6)
    assert inspect_checkpoint(str(folder)).notes == ()
    edit_json(folder / "generation_config.json", repetition_penalty=1.1, suppress_tokens=[7])
    said = "not followed when measuring, which takes the likeliest token: repetition_penalty 1.1, suppress_tokens [7]"
    assert inspect_checkpoint(str(folder)).notes == (f"{folder}/generation_config.json: {said}",)
