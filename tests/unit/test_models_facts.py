"""What inspection reports: sizes under every family's own names, digests that anybody can recompute, paths."""

import hashlib
import importlib.util
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from beear.errors import UserError
from beear.models import hub
from beear.models.config_file import config_facts
from beear.models.families import FAMILIES
from beear.models.inspect import inspect_checkpoint
from beear.testing import checkpoints
from beear.testing.checkpoints import TEMPLATE, edit_json, make_checkpoint, make_model


@pytest.mark.parametrize("architecture", list(FAMILIES))
def test_each_family_is_what_the_library_would_build(architecture):
    family = FAMILIES[architecture]
    assert MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[family.model_type] == architecture
    assert CONFIG_MAPPING[family.model_type]().tie_word_embeddings == family.tied


@pytest.mark.parametrize("family", list(checkpoints.FAMILIES))
@pytest.mark.parametrize("tied", [False, True])
def test_sizes_of_every_family(tmp_path, family, tied):
    facts = inspect_checkpoint(str(make_checkpoint(tmp_path, family, dtype="bfloat16", tied=tied, layers=2)))
    model = make_model(family, tied=tied, layers=2)
    assert (facts.layers, facts.hidden_size, facts.context, facts.vocab_size) == (2, 32, 256, checkpoints.VOCABULARY)
    assert facts.parameters == sum(parameter.numel() for parameter in model.parameters())
    assert (facts.architecture, facts.tied, facts.source_dtype) == (type(model).__name__, tied, "bfloat16")
    assert facts.chat_template == TEMPLATE


def test_sizes_left_out_or_nested():
    nested = {"model_type": "gemma3", "architectures": ["Gemma3ForConditionalGeneration"]}
    part = {"hidden_size": 64, "num_hidden_layers": 7, "max_position_embeddings": 99}
    facts = config_facts({**nested, "text_config": part}, "x")
    assert (facts.hidden_size, facts.layers, facts.context, facts.tied) == (64, 7, 99, True)
    assert facts.vocab_size == CONFIG_MAPPING["gemma3_text"]().vocab_size
    with pytest.raises(UserError, match='"text_config" that is no object'):
        config_facts({**nested, "text_config": []}, "x")


def test_digests_can_be_recomputed_with_plain_tools(tmp_path):
    folder = make_checkpoint(tmp_path / "model", shards=3)
    digests = inspect_checkpoint(str(folder)).digests

    def shell(*names: str) -> str:
        sums = subprocess.run(["sha256sum", *names], cwd=folder, capture_output=True, check=True).stdout
        return hashlib.sha256(sums).hexdigest()

    assert digests["weights"] == shell(*sorted(path.name for path in folder.glob("*.safetensors")))
    assert digests["tokenizer"] == shell("chat_template.jinja", "tokenizer.json", "tokenizer_config.json")
    assert digests["config"] == shell("config.json", "generation_config.json")
    assert digests["template"] == hashlib.sha256(TEMPLATE.encode()).hexdigest()


@pytest.mark.parametrize("name,part", [
    ("model.safetensors", "weights"), ("tokenizer.json", "tokenizer"), ("tokenizer_config.json", "tokenizer"),
    ("chat_template.jinja", "template"), ("config.json", "config"), ("generation_config.json", "config"),
])  # fmt: skip
def test_one_changed_byte_changes_its_digest_only(tmp_path, name, part):
    folder = make_checkpoint(tmp_path / "model")
    before = inspect_checkpoint(str(folder)).digests
    raw = bytearray((folder / name).read_bytes())
    if name.endswith(".safetensors"):
        raw[-1] ^= 1
    else:
        raw += b" "
    (folder / name).write_bytes(raw)
    after = inspect_checkpoint(str(folder)).digests
    changed = {key for key in before if before[key] != after[key]}
    assert changed == ({part, "tokenizer"} if part == "template" else {part})


def test_templates_in_every_place_the_library_reads(tmp_path):
    from transformers import AutoTokenizer

    folder = make_checkpoint(tmp_path / "model", template=None)
    extra = folder / "additional_chat_templates"
    assert inspect_checkpoint(str(folder)).chat_template is None
    assert inspect_checkpoint(str(folder)).digests["template"] == "none"
    for change in (
        lambda: edit_json(folder / "tokenizer_config.json", chat_template="one"),
        lambda: edit_json(
            folder / "tokenizer_config.json",
            chat_template=[{"name": "default", "template": "two"}, {"name": "tool_use", "template": "tools"}],
        ),
        lambda: (folder / "chat_template.jinja").write_text("three"),
        lambda: (extra.mkdir(), (extra / "rag.jinja").write_text("four")),
    ):  # fmt: skip
        change()
        template = AutoTokenizer.from_pretrained(folder).chat_template
        expected = template["default"] if isinstance(template, dict) else template
        assert inspect_checkpoint(str(folder)).chat_template == expected


def test_inspection_loads_neither_torch_nor_transformers(tmp_path):
    folder = make_checkpoint(tmp_path / "model")
    code = (
        "import sys; from beear.models.inspect import inspect_checkpoint; "
        f"inspect_checkpoint({str(folder)!r}); print(sorted({{'torch', 'transformers'}} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


PATHS = [
    ("nowhere/at/all", 'found no directory "nowhere/at/all", expected a directory'),
    ("org/name", "to fetch it from the hub write hub:org/name"),
    ("testbed:short-suffix", "expected it turned into a directory"),
    ("s3://bucket/model", "expected a local directory or hub:ORG/NAME"),
    ("hub:name", "expected hub:ORG/NAME"),
    ("hub:../../etc", "expected hub:ORG/NAME"),
]


@pytest.mark.parametrize("path,said", PATHS)
def test_paths_that_are_no_directory(tmp_path, monkeypatch, path, said):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as caught:
        inspect_checkpoint(path)
    assert said in str(caught.value) and str(caught.value).startswith("model.path")


def test_a_file_is_no_directory(tmp_path):
    folder = make_checkpoint(tmp_path / "model")
    with pytest.raises(UserError, match="is a file, expected the directory"):
        inspect_checkpoint(str(folder / "model.safetensors"))


def test_hub_is_asked_only_for_hub_paths_and_only_for_safe_files(tmp_path, monkeypatch):
    folder = make_checkpoint(tmp_path / "model")
    asked = []

    def download(name, revision=None, allow_patterns=None):
        asked.append((name, revision, allow_patterns))
        return str(folder)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    facts = inspect_checkpoint("hub:org/name@abc")
    assert (facts.path, facts.origin) == (str(folder), "hub:org/name@abc")
    inspect_checkpoint(str(folder))
    assert asked == [("org/name", "abc", hub.PATTERNS)]
    assert not any(pattern.endswith((".bin", ".py", ".pt", "*")) for pattern in hub.PATTERNS)


def test_a_hub_repository_of_pickles_is_told_how_to_convert_them(tmp_path, monkeypatch):
    (tmp_path / "config.json").write_text("{}")
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *_, **__: str(tmp_path))
    with pytest.raises(UserError) as caught:
        inspect_checkpoint("hub:org/name@abc")
    fetch, module = re.search(
        r"fetch them with hf (.+) and convert them with python -m (\S+) DIR OUT", str(caught.value)
    ).groups()
    assert fetch == "download org/name --revision abc --local-dir DIR"
    offered = subprocess.run([Path(sys.executable).with_name("hf"), "download", "--help"], capture_output=True, text=True).stdout
    assert set(re.findall(r"--[a-z-]+", fetch)) <= set(re.findall(r"--[a-z-]+", offered))
    assert importlib.util.find_spec(f"{module}.__main__")


def test_hub_offline_is_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(UserError) as caught:
        inspect_checkpoint("hub:org/does-not-exist-here")
    assert "hub:org/does-not-exist-here could not be fetched" in str(caught.value) and "\n" not in str(caught.value)


def test_older_config_names_are_read(tmp_path):
    folder = make_checkpoint(tmp_path / "model", "gpt2")
    assert "n_layer" in json.loads((folder / "config.json").read_text())
    assert inspect_checkpoint(str(folder)).layers == 3
    shutil.rmtree(folder)
