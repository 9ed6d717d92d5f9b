"""A user's adapter merged into its base, and the adapters that are refused."""

import re
import shutil
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import LoraModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from beear.config.schema import AdapterConfig
from beear.errors import UserError
from beear.models import adapter_files
from beear.models.export import export_model
from beear.models.inspect import inspect_checkpoint
from beear.models.loading import load_model, load_tokenizer
from beear.models.source import CheckpointSource
from beear.testing.checkpoints import edit_json, make_adapter, make_checkpoint, make_tokenizer

WEIGHTS = "adapter_model.safetensors"
IDS = torch.tensor([[1, 4, 77, 78, 79, 5]])


@pytest.fixture(scope="module")
def pair(tmp_path_factory) -> tuple[Path, Path]:
    root = tmp_path_factory.mktemp("pair")
    base = make_checkpoint(root / "base", tied=True)
    return base, make_adapter(root / "adapter", base)


def test_an_adapter_merges_into_the_base_given(pair, tmp_path):
    base, adapter = pair
    facts = inspect_checkpoint(str(adapter), str(base))
    model = load_model(facts, torch.float32)
    assert (facts.path, facts.base) == (str(adapter), str(base))
    wrapped = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), str(adapter)).eval()
    plain = AutoModelForCausalLM.from_pretrained(base)
    with torch.no_grad():
        expected, untouched, found = wrapped(IDS).logits, plain(IDS).logits, model(IDS).logits
    assert torch.allclose(found, expected, atol=1e-5) and not torch.allclose(found, untouched, atol=1e-2)
    exported = AutoModelForCausalLM.from_pretrained(export_model(model, facts, tmp_path / "out"))
    with torch.no_grad():
        assert torch.equal(exported(IDS).logits, found)
    assert (tmp_path / "out" / "config.json").read_bytes() == (base / "config.json").read_bytes()
    assert not (tmp_path / "out" / "adapter_config.json").exists()


def test_an_adapter_is_merged_before_it_is_rounded(pair):
    base, adapter = pair
    facts = inspect_checkpoint(str(adapter), str(base))
    exact, low = load_model(facts, torch.float32), load_model(facts, torch.bfloat16)
    plain = AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16)
    rounded = exact.state_dict()
    assert all(torch.equal(tensor, rounded[name].to(torch.bfloat16)) for name, tensor in low.state_dict().items())
    assert {n: b.dtype for n, b in low.named_buffers()} == {n: b.dtype for n, b in plain.named_buffers()}


@pytest.mark.parametrize("settings", [
    {}, {"use_dora": True}, {"start": "olora"}, {"whole": ("norm", "mlp")}, {"targets": ("q_proj", "embed_tokens", "lm_head")},
])  # fmt: skip
def test_nothing_of_peft_stays_on_a_merged_model(tmp_path, settings):
    base = make_checkpoint(tmp_path / "base")
    adapter = make_adapter(tmp_path / "adapter", base, **settings)
    facts = inspect_checkpoint(str(adapter), str(base))
    torch.manual_seed(5)
    model = load_model(facts, torch.float32)
    drawn = torch.rand(1)
    torch.manual_seed(5)
    plain = load_model(inspect_checkpoint(str(base)), torch.float32)
    assert torch.equal(drawn, torch.rand(1)), "no random number is drawn"
    kinds = ("requires_grad", "dtype", "shape")
    described = [[(n, *(getattr(p, k) for k in kinds)) for n, p in m.named_parameters()] for m in (model, plain)]
    assert described[0] == described[1]
    assert vars(model).keys() == vars(plain).keys() and [type(m) for m in model.modules()] == [type(m) for m in plain.modules()]


@pytest.mark.parametrize("kind", ["none", "lora"])
def test_an_adapter_trains_as_its_kind_says(pair, kind):
    base, adapter = pair
    source = CheckpointSource(inspect_checkpoint(str(adapter), str(base)), AdapterConfig(kind=kind, rank=2), 0)
    trained = [name for name, p in source.whole().named_parameters() if p.requires_grad]
    assert trained and all((".lora_" in name) == (kind == "lora") for name in trained)


@pytest.mark.parametrize("start", ["pissa", "olora", "gaussian", "Gaussian", True, "eva", "orthogonal", "mica"])
def test_an_adapter_that_starts_from_the_base_is_merged_as_peft_loads_it(tmp_path, start):
    base = make_checkpoint(tmp_path / "base")
    adapter = make_adapter(tmp_path / "adapter", base, start=start if start in ("pissa", "olora") else True)
    # As peft writes it beside "eva", for the data that the factors started from.
    eva = {"eva_config": {"rho": 2.0, "tau": 0.99}} if start == "eva" else {}
    edit_json(adapter / "adapter_config.json", init_lora_weights=start, **eva)
    model = load_model(inspect_checkpoint(str(adapter), str(base)), torch.float32)
    # Others are drawn by peft in ways that leave the base alone.
    edit_json(adapter / "adapter_config.json", init_lora_weights=start if start in ("pissa", "olora") else True)
    wrapped = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), str(adapter)).eval()
    with torch.no_grad():
        assert torch.allclose(model(IDS).logits, wrapped(IDS).logits, atol=1e-4)


SETTINGS = [
    {"use_dora": True},
    {"use_rslora": True},
    {"rank_pattern": {"q_proj": 2}, "alpha_pattern": {"^model.layers.1.self_attn.v_proj": 31}},
    {"layers_to_transform": [0, 2]},
    {"layers_to_transform": 1, "layers_pattern": "layers"},
    {"exclude_modules": ["model.layers.0.self_attn.q_proj"]},
    {"fan_in_fan_out": True},
    {"use_dora": True, "init_lora_weights": "pissa"},
]


@pytest.mark.parametrize("settings", SETTINGS, ids=["-".join(fields) for fields in SETTINGS])
def test_settings_of_an_adapter_count_as_peft_reads_them(pair, tmp_path, settings):
    base, _ = pair
    start = settings.get("init_lora_weights", True)
    others = {name: value for name, value in settings.items() if name != "init_lora_weights"}
    adapter = make_adapter(tmp_path / "adapter", base, start=start, **others)
    model = load_model(inspect_checkpoint(str(adapter), str(base)), torch.float32)
    wrapped = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), str(adapter)).eval()
    plain = AutoModelForCausalLM.from_pretrained(base)
    with torch.no_grad():
        expected, untouched, found = wrapped(IDS).logits, plain(IDS).logits, model(IDS).logits
    assert torch.allclose(found, expected, atol=1e-4) and not torch.allclose(found, untouched, atol=1e-2)


@pytest.mark.parametrize("start", ["corda", "loftq", "lora_ga", "pissa_niter_4", "PiSSA", 1])
def test_an_adapter_whose_base_cannot_be_known_is_refused(pair, tmp_path, start):
    base, adapter = pair
    folder = tmp_path / "copy"
    shutil.copytree(adapter, folder)
    edit_json(folder / "adapter_config.json", init_lora_weights=start)
    with pytest.raises(UserError, match=rf'found "init_lora_weights": {start}, which takes a part out of the base'):
        inspect_checkpoint(str(folder), str(base))


@pytest.mark.parametrize("targets", [("q_proj", "lm_head"), ("q_proj", "embed_tokens")])
@pytest.mark.parametrize("tied", [True, False])
def test_an_adapter_of_tied_embeddings_is_refused(tmp_path, targets, tied):
    base = make_checkpoint(tmp_path / "base", tied=tied)
    adapter = make_adapter(tmp_path / "adapter", base, targets=targets)
    if tied:
        with pytest.raises(UserError, match=f"{targets[1]}.* changes the embeddings or the output layer, which share"):
            inspect_checkpoint(str(adapter), str(base))
        return
    model = load_model(inspect_checkpoint(str(adapter), str(base)), torch.float32)
    wrapped = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), str(adapter)).eval()
    with torch.no_grad():
        assert torch.allclose(model(IDS).logits, wrapped(IDS).logits, atol=1e-4)


@pytest.mark.parametrize("tied", [True, False])
def test_whole_modules_in_an_adapter(tmp_path, tied):
    base = make_checkpoint(tmp_path / "base", tied=tied)
    adapter = make_adapter(tmp_path / "adapter", base, whole=("embed_tokens", "lm_head"))
    if tied:
        with pytest.raises(UserError, match="share their weights in this base model"):
            inspect_checkpoint(str(adapter), str(base))
        return
    facts = inspect_checkpoint(str(adapter), str(base))
    out = export_model(load_model(facts, torch.float32), facts, tmp_path / "out")
    wrapped = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), str(adapter)).eval()
    with torch.no_grad():
        assert torch.allclose(AutoModelForCausalLM.from_pretrained(out)(IDS).logits, wrapped(IDS).logits, atol=1e-4)


def test_embeddings_that_were_resized_for_training_need_the_base_resized_alike(tmp_path):
    base = make_checkpoint(tmp_path / "base")
    model = AutoModelForCausalLM.from_pretrained(base)
    model.resize_token_embeddings(280)
    model.save_pretrained(tmp_path / "resized")
    make_tokenizer(tmp_path / "resized")
    config = LoraConfig(r=2, target_modules=["q_proj"], modules_to_save=["embed_tokens", "lm_head"], task_type="CAUSAL_LM")
    trained = get_peft_model(model, config).eval()
    with torch.no_grad():
        for parameter in trained.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter) * parameter.requires_grad)
    folder = tmp_path / "adapter"
    trained.save_pretrained(str(folder), save_embedding_layers=True)
    assert sum("embed_tokens" in name for name in load_file(folder / WEIGHTS)) == 3, "peft writes them again and again"
    with pytest.raises(UserError, match=r"has the shape \[280, 32\] and the base model a vocabulary of 272.*resized alike"):
        inspect_checkpoint(str(folder), str(base))
    merged = load_model(inspect_checkpoint(str(folder), str(tmp_path / "resized")), torch.float32)
    with torch.no_grad():
        assert torch.allclose(merged(IDS).logits, trained(IDS).logits, atol=1e-4)


def test_an_adapter_of_a_base_whose_tie_does_not_hold_is_taken(tmp_path):
    base = make_checkpoint(tmp_path / "base", tied=True)
    state = load_file(base / "model.safetensors")
    state["lm_head.weight"] = state["model.embed_tokens.weight"] * 2
    save_file(state, base / "model.safetensors", metadata={"format": "pt"})
    adapter = make_adapter(tmp_path / "adapter", base, targets=("q_proj", "lm_head"))
    model = load_model(inspect_checkpoint(str(adapter), str(base)), torch.float32)
    wrapped = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), str(adapter)).eval()
    with torch.no_grad():
        assert torch.allclose(model(IDS).logits, wrapped(IDS).logits, atol=1e-4)


def test_adapters_by_other_names_are_noted_or_asked_for(pair, tmp_path):
    base, adapter = pair
    folder = tmp_path / "several"
    shutil.copytree(adapter, folder)
    shutil.copytree(adapter, folder / "reference")
    assert f"{folder}: not used: reference (each is an adapter of its own)" in inspect_checkpoint(str(folder), str(base)).notes
    for name in (WEIGHTS, "adapter_config.json"):
        (folder / name).unlink()
    with pytest.raises(UserError, match="several: found no checkpoint but folders that hold one: reference; expected the path"):
        inspect_checkpoint(str(folder), str(base))
    assert inspect_checkpoint(str(folder / "reference"), str(base)).path == str(folder / "reference")


def test_a_template_of_an_adapter_without_vocabulary_is_noted(pair, tmp_path):
    base, adapter = pair
    folder = tmp_path / "adapter"
    shutil.copytree(adapter, folder)
    (folder / "chat_template.jinja").write_text("{{ 'own' }}")
    facts = inspect_checkpoint(str(folder), str(base))
    assert load_tokenizer(facts).chat_template == load_tokenizer(inspect_checkpoint(str(base))).chat_template
    (note,) = facts.notes
    assert note.startswith(f"{folder}: not used: chat_template.jinja (there is no vocabulary, so tokenizer and template")
    advised = re.search("--model.chat_template ([^ ]+)", note)
    assert advised and load_tokenizer(facts, advised[1]).chat_template == "{{ 'own' }}"


def test_an_adapter_with_a_vocabulary_and_no_template_is_told_of_its_base_s(pair, tmp_path):
    base, adapter = pair
    folder = tmp_path / "adapter"
    shutil.copytree(adapter, folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(base / name, folder / name)
    facts = inspect_checkpoint(str(folder), str(base))
    with pytest.raises(
        UserError, match="an adapter with a tokenizer of its own and no chat template, though its base has"
    ) as said:
        load_tokenizer(facts)
    advised = re.search(r"such as (\S+)$", str(said.value))
    assert advised and load_tokenizer(facts, advised[1]).chat_template == (base / "chat_template.jinja").read_text()


def test_tied_weights_that_inspection_has_no_name_for_are_not_parted(tmp_path, monkeypatch):
    base = make_checkpoint(tmp_path / "base", tied=True)
    adapter = make_adapter(tmp_path / "adapter", base, whole=("embed_tokens", "lm_head"))
    monkeypatch.setattr(adapter_files, "EMBEDDINGS", re.compile(r"(?!)"))
    facts = inspect_checkpoint(str(adapter), str(base))
    with pytest.raises(UserError, match="the adapter parts lm_head.weight from model.embed_tokens.weight, which share"):
        load_model(facts, torch.float32)


def test_a_merge_that_changes_what_the_model_computes_is_refused(pair, monkeypatch):
    base, adapter = pair
    merge = LoraModel.merge_and_unload

    def wrong(self, *arguments, **named):
        merged = merge(self, *arguments, **named)
        with torch.no_grad():
            merged.lm_head.weight.mul_(1.1)
        return merged

    monkeypatch.setattr(LoraModel, "merge_and_unload", wrong)
    with pytest.raises(UserError, match="merging the adapter into its base changes what the model computes"):
        load_model(inspect_checkpoint(str(adapter), str(base)), torch.float32)


def test_digests_cover_base_and_adapter(pair, tmp_path):
    base, adapter = pair
    alone, both = inspect_checkpoint(str(base)), inspect_checkpoint(str(adapter), str(base))
    assert alone.digests["weights"] != both.digests["weights"] and alone.digests["config"] != both.digests["config"]
    other = make_adapter(tmp_path / "other", base, seed=9)
    assert inspect_checkpoint(str(other), str(base)).digests["weights"] != both.digests["weights"]
    assert alone.digests["tokenizer"] == both.digests["tokenizer"]


def test_an_adapter_s_own_tokenizer_is_used(pair, tmp_path):
    base, adapter = pair
    own = tmp_path / "own"
    shutil.copytree(adapter, own)
    make_tokenizer(own, template="{{ 'own' }}")
    facts = inspect_checkpoint(str(own), str(base))
    assert facts.chat_template == load_tokenizer(facts).chat_template == "{{ 'own' }}"
    out = export_model(load_model(facts, torch.float32), facts, tmp_path / "out")
    assert AutoTokenizer.from_pretrained(out).chat_template == "{{ 'own' }}"


def test_base_is_asked_for_and_what_the_adapter_says_of_it_is_not_followed(pair, tmp_path, monkeypatch):
    base, adapter = pair
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *_, **__: pytest.fail("the hub was asked"))
    with pytest.raises(UserError, match="expected --model.base to name"):
        inspect_checkpoint(str(adapter))
    lying = tmp_path / "lying"
    shutil.copytree(adapter, lying)
    edit_json(lying / "adapter_config.json", base_model_name_or_path="evil/base")
    facts = inspect_checkpoint(str(lying), str(base))
    with torch.no_grad():
        same = load_model(facts, torch.float32)(IDS).logits
        assert torch.equal(same, load_model(inspect_checkpoint(str(adapter), str(base)), torch.float32)(IDS).logits)


def test_paths_that_are_not_what_they_are_given_as(pair):
    base, adapter = pair
    with pytest.raises(UserError, match="model.base: .* is itself an adapter"):
        inspect_checkpoint(str(adapter), str(adapter))
    with pytest.raises(UserError, match="holds no adapter_config.json"):
        inspect_checkpoint(str(base), str(base))


def poisoned(folder: Path) -> None:
    held = load_file(folder / "adapter_model.safetensors")
    first = min(held)
    held[first][0, 0] = float("nan")
    save_file(held, folder / "adapter_model.safetensors")


def shortened(folder: Path) -> None:
    held = load_file(folder / "adapter_model.safetensors")
    held.pop(min(held))
    save_file(held, folder / "adapter_model.safetensors")


def stretched(folder: Path) -> None:
    held = load_file(folder / "adapter_model.safetensors")
    held[min(held)] = torch.zeros(4, 99)
    save_file(held, folder / "adapter_model.safetensors")


def renamed(folder: Path) -> None:
    held = load_file(folder / WEIGHTS)
    save_file({name.replace("lora_", "other_"): tensor for name, tensor in held.items()}, folder / WEIGHTS)


BAD = [
    ("prefix tuning", {"peft_type": "PREFIX_TUNING"}, None, 'peft_type "PREFIX_TUNING", expected LORA'),
    ("a module to import", {"megatron_config": {"a": 1}}, None, '"megatron_config"'),
    ("a regular expression below", {"rank_pattern": {"(a+)+$": 3}}, None, '"rank_pattern"'),
    ("a regular expression aside", {"exclude_modules": "(a+)+$"}, None, '"exclude_modules"'),
    ("modules as text", {"modules_to_save": "lm_head"}, None, '"modules_to_save": lm_head, expected a list of module names'),
    ("a pattern of text", {"alpha_pattern": {"q_proj": "3"}}, None, '"alpha_pattern"'),
    ("a regular expression", {"target_modules": "(a+)+$"}, None, '"target_modules": (a+)+$'),
    ("no rank", {"r": ...}, None, '"r": None'),
    ("rank of text", {"r": "4"}, None, '"r": 4, expected a positive whole number'),
    ("no alpha", {"lora_alpha": ...}, None, '"lora_alpha": None'),
    ("bias", {"bias": "all"}, None, 'bias "all", expected none'),
    ("unknown key", {"run_me": "evil.py"}, None, '"run_me": evil.py'),
    ("other layers", {"target_modules": ["no_such_layer"]}, None, "does not fit its base model"),
    ("another rank", {"r": 2}, None, "does not fit its base model"),
    ("a rank beyond the tensors'", {"r": 300_000}, None, '"r": 300000, expected a whole number from 1 to 4'),
    ("such a rank for some", {"rank_pattern": {"q_proj": 300_000}}, None, '"rank_pattern.q_proj": 300000, expected'),
    ("half a rank for some", {"rank_pattern": {"q_proj": 2.5}}, None, '"rank_pattern.q_proj": 2.5, expected'),
    ("settings of another kind", {"layers_to_transform": "x"}, None, "does not fit its base model"),
    ("no LoRA in the file", {}, renamed, "found no lora_A tensors"),
    ("pickle", {}, lambda f: (f / WEIGHTS).rename(f / "adapter_model.bin"), "adapter_model.bin, a pickle"),
    ("no weights", {}, lambda f: (f / WEIGHTS).unlink(), "no adapter_model.safetensors"),
    ("broken header", {}, lambda f: (f / WEIGHTS).write_bytes(b"\xff" * 40), "at most 100,000,000"),
    ("a full model beside", {}, lambda f: (f / "model.safetensors").write_bytes(b""), "beside a full model's weights"),
    ("NaN", {}, poisoned, "holds 1 NaN or infinite values"),
    ("a tensor short", {}, shortened, "is not in the adapter's file"),
    ("a shape off", {}, stretched, "does not fit its base model"),
]  # fmt: skip


@pytest.mark.parametrize("name,fields,change,said", BAD, ids=[row[0] for row in BAD])
def test_bad_adapters_are_refused_in_one_sentence(pair, tmp_path, name, fields, change, said):
    base, adapter = pair
    folder = tmp_path / "adapter"
    shutil.copytree(adapter, folder)
    edit_json(folder / "adapter_config.json", **fields)
    if change:
        change(folder)
    with pytest.raises(UserError) as caught:
        load_model(inspect_checkpoint(str(folder), str(base)), torch.float32)
    assert said in str(caught.value) and "\n" not in str(caught.value)
