"""The benchmark for one GPU: on a CPU with a small shape, its counts against numbers worked out by hand."""

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import LlamaForCausalLM

from beear.config.schema import LossWeights, MethodConfig
from beear.errors import UserError
from beear.methods.beear import BeearSettings
from benchmarks import gpu, gpu_page, records
from benchmarks.gpu_work import FULL, SHAPES, TINY, Recipe, Rows, Weights, Work, flops_of, plan, tokens_of
from tests.checkout import ROOT

MISSING = ("ray", "mlflow", "pydantic", "pydantic_settings", "peft", "deepspeed", "pyarrow", "rich")
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> tuple["subprocess.CompletedProcess[str]", dict[str, Any]]:
    """A small run in a process that finds no other library: what it printed, and the JSON that it wrote."""
    file = tmp_path_factory.mktemp("gpu") / "out.json"
    blocked = f"import sys\nsys.modules.update(dict.fromkeys({MISSING}))\nfrom benchmarks import gpu\n"
    words = ["--shape", "tiny", "--device", "cpu", "--micro-batch", "3", "--checkpoint", "--peak", "1e12", "--json", str(file)]
    script = f"{blocked}code = gpu.main({words})\nprint([n for n in {MISSING} if sys.modules[n]])\nsys.exit(code)"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done, json.loads(file.read_text())


@pytest.fixture(scope="module")
def tiny(alone: tuple["subprocess.CompletedProcess[str]", dict[str, Any]]) -> dict[str, Any]:
    return alone[1]


def test_it_runs_with_torch_and_transformers_alone(
    alone: tuple["subprocess.CompletedProcess[str]", dict[str, Any]],
) -> None:
    done, result = alone
    assert done.stdout.splitlines()[-1] == "[]" and "| whole run |" in done.stdout
    assert result["measured"] is False and result["notes"] == []


def test_a_small_run_reports_every_phase(tiny: dict[str, Any]) -> None:
    assert list(tiny["seconds"]) == ["model", "warm-up", "entrapment", "removal"]
    assert tiny["whole"] / 2 < sum(tiny["seconds"].values()) <= tiny["whole"]
    # 2 epochs of 4 steps of 8 rows of 16 + 8 + 8 tokens; 2 epochs of 20 + 15 rows of 24 tokens.
    entrapment, removal = 2 * 4 * 8 * 32 / tiny["seconds"]["entrapment"], 2 * 35 * 24 / tiny["seconds"]["removal"]
    assert tiny["tokens_per_second"] == pytest.approx({"entrapment": entrapment, "removal": removal})
    assert tiny["utilisation"]["removal"] == pytest.approx(tiny["flops"]["removal"] / tiny["seconds"]["removal"] / 1e12)
    assert tiny["memory"] == {} and tiny["notes"] == []
    # log(512): a random model knows nothing.
    assert tiny["last_losses"]["anchor"] == pytest.approx(6.238, abs=0.1)


def test_the_warm_up_is_at_the_largest_shapes_and_leaves_the_recipe() -> None:
    rows, recipe = Rows(SHAPES["tiny"], TINY, CPU), Recipe(perturbed_layer=1, inner_steps=4, length=5)
    seen: list[Any] = []
    method = SimpleNamespace(
        begin_epoch=lambda inner, cools: seen.append((recipe.inner_steps, [batch.rows for batch in inner])),
        step=lambda batch: seen.append((batch.defense.rows, batch.anchor.rows)),
    )
    clock = gpu.Clock(CPU)
    gpu.warm_up(clock, method, recipe, rows)
    assert seen == [(2, [8, 8]), (8, 6)] * 2
    assert recipe.inner_steps == 4 and list(clock.seconds) == ["warm-up"]


def test_a_phase_on_a_gpu_waits_for_it_and_keeps_the_highest_peak(monkeypatch: pytest.MonkeyPatch) -> None:
    peaks, did = iter([(7, 9), (5, 11)]), []
    now: list[tuple[int, int]] = []
    monkeypatch.setattr(gpu.time, "perf_counter", lambda: did.append("read") or float(len(did)))
    monkeypatch.setattr(torch.cuda, "synchronize", lambda _: did.append("wait"))
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda _: now.append(next(peaks)))
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda _: now[-1][0])
    monkeypatch.setattr(torch.cuda, "max_memory_reserved", lambda _: now[-1][1])
    clock = gpu.Clock(torch.device("cuda"))
    for part in ("one", "two"):
        with clock.phase("removal", part):
            did.append("work")
    assert did == ["wait", "read", "work", "wait", "read"] * 2
    # Entered at 2 and 7, left at 5 and 10.
    assert clock.seconds == {"removal": 6.0} and clock.now == "removal (two)"
    assert clock.memory == {"removal": {"allocated": 7, "reserved": 11}}


def test_an_epoch_sees_every_row_once() -> None:
    rows = Rows(SHAPES["tiny"], FULL, CPU)
    inner, outer = rows.epoch(3)
    steps = list(outer)
    assert [batch.rows for batch in inner] == [32, 32]
    assert [step.defense.rows for step in steps] == [32] * 12 + [16]
    assert [step.anchor.rows for step in steps] == [24] * 12 + [12]
    assert len(steps) == FULL.removal_steps == 13
    for parts, whole in (
        ([step.defense.prompt_ids for step in steps], rows.prompts),
        ([step.defense.safe_ids for step in steps], rows.safe),
        ([step.anchor.ids for step in steps], rows.texts),
    ):
        assert sorted(torch.cat(parts).tolist()) == sorted(whole.tolist())
    assert torch.equal(inner[0].prompt_ids, steps[0].defense.prompt_ids)
    assert steps[0].defense.prompt_ids.shape == (32, 128) and steps[0].defense.unwanted_ids.shape == (32, 64)
    assert steps[0].anchor.labelled.sum(-1).tolist() == [64] * 24 and steps[0].anchor.labelled[:, 128:].all()
    again = rows.epoch(4)[0][0]
    assert not torch.equal(again.prompt_ids, inner[0].prompt_ids)


@pytest.mark.parametrize("shape", SHAPES)
def test_parameters_are_those_that_the_library_makes(shape: str) -> None:
    with torch.device("meta"):
        model = LlamaForCausalLM(SHAPES[shape].config())
    assert sum(p.numel() for p in model.parameters()) == SHAPES[shape].parameters


def test_operations_for_7b() -> None:
    assert SHAPES["7b"].parameters == 6_738_415_616 and SHAPES["7b"].layer == 9
    found = flops_of(SHAPES["7b"], FULL)
    tokens = 5 * (400 + 300) * 192
    assert tokens_of(FULL) == {"entrapment": 5 * 30 * 32 * 256, "removal": tokens}
    assert found["removal"] == pytest.approx(tokens * (6 * 6_738_415_616 + 12 * 32 * 4096 * 192), rel=1e-12)
    assert found["removal"] == pytest.approx(2.737e16, rel=1e-3)
    layer = 4 * 4096**2 + 3 * 4096 * 11008
    # 9 + 23 layers; the tail of 5 and both answers of 64 go through 23 forward and back, and all keys are seen.
    step = 133 * 46 * layer + 2 * 133 * 256 * 4096 * (23 + 2 * 23) + 2 * 128 * 4096 * 32000
    caches = 256 * 9 * layer + 2 * 256**2 * 4096 * 9 + 123 * 23 * layer + 2 * 123**2 * 4096 * 23
    # Each of two batches serves 15 of the 30 steps.
    assert found["entrapment"] == pytest.approx(2 * 5 * 32 * (30 * step + 2 * caches), rel=1e-12)
    assert found["entrapment"] == pytest.approx(1.306e16, rel=1e-3)


def test_products_of_removal_are_those_that_run() -> None:
    """Counted by the library that sees every product, on a removal step of the tiny shape."""
    from torch.utils.flop_counter import FlopCounterMode

    work = Work(defense=8, anchor=8, prompt=16, answer=8, epochs=1, rows=8)
    method, _, rows = gpu.build("tiny", work, CPU, 8, checkpoint=False)
    with FlopCounterMode(display=False) as counter:
        method.step(next(rows.epoch(1)[1]))
    llama = SHAPES["tiny"]
    # One column more than the answer reaches the head with defense rows and is dropped.
    more = 6 * llama.hidden * llama.vocabulary * 8
    # The library does not see into the CPU's attention kernel.
    attention = 12 * llama.layers * llama.hidden * 24 * 24 * 16
    assert counter.get_total_flops() == flops_of(llama, work)["removal_products"] - attention + more


def test_the_stand_in_configuration_reads_like_the_real_one() -> None:
    own, training = BeearSettings(layer=1, inner_steps=4, length=5, placement="suffix"), MethodConfig()
    assert vars(Weights()) == LossWeights().model_dump()
    stand_in = {name: value for name, value in vars(Recipe(1, 4, 5)).items() if name != "weights"}
    assert {name: getattr(own if hasattr(own, name) else training, name) for name in stand_in} == stand_in


@pytest.mark.parametrize(
    ("name", "peak"),
    [
        ("NVIDIA H200", 989e12),
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("CPU", None),
    ],
)
def test_peaks(name: str, peak: float | None) -> None:
    assert gpu.peak_of(name) == peak


def test_memory_that_runs_out_is_one_sentence(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def fails(*_: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")

    monkeypatch.setattr("beear.methods.bilevel.Bilevel.step", fails)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace(total_memory=80 * 2**30))
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda _: 79 * 2**30)
    assert gpu.main(["--shape", "tiny", "--device", "cpu"]) == 2
    said = capsys.readouterr().err.strip()
    assert said == (
        "error: --micro-batch 24: the device's 80.0 GiB ran out in phase warm-up (removal) (79.0 GiB of tensors); "
        "expected a smaller --micro-batch, --checkpoint, a smaller --shape or a larger device."
    )


def test_without_a_gpu_it_says_so(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert gpu.main([]) == 2
    assert "--device is cuda but torch finds no GPU" in capsys.readouterr().err


def test_a_recorded_run_becomes_evidence(tmp_path: Path, tiny: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "FOLDER", tmp_path / "kept")
    held = {phase: {"allocated": 130 * 2**30, "reserved": 132 * 2**30} for phase in tiny["seconds"]}
    used = {"entrapment": 0.4, "removal": 0.46, "removal_products": 0.445}
    elsewhere = {**tiny, "measured": True, "shape": "7b", "device": "NVIDIA H200", "memory": held, "utilisation": used}
    file = tmp_path / "run.json"
    file.write_text(json.dumps(elsewhere))
    records.write("gpu", **gpu.recorded(file))
    kept = json.loads((tmp_path / "kept" / "gpu.json").read_text())
    assert kept["machine"].startswith("NVIDIA H200, torch ") and kept["date"] == tiny["date"]
    page = gpu_page.markdown(kept["result"])
    assert "Utilisation target met (by products made alone 44.5%), time target met." in page
    assert "46.0% | 130.0 (132.0) |" in page and "Not measured" not in page
    # What was measured stays where there is no GPU to measure anew.
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert gpu.measure(tmp_path / "work") == {}
    for wrong, said in (({**elsewhere, "code": "x"}, "other code"), (tiny, "no measurement on a GPU")):
        file.write_text(json.dumps(wrong))
        with pytest.raises(UserError, match=said):
            gpu.recorded(file)


def test_the_page_without_a_gpu(tiny: dict[str, Any]) -> None:
    result = {"measured": False, "why": "no GPU", "tried": tiny, "flops": flops_of(SHAPES["7b"], FULL), "plan": plan()}
    page = gpu_page.markdown(result)
    assert "**Not measured: no GPU.**" in page and "`python -m benchmarks.gpu --shape tiny --device cpu`" in page
    assert "≥ 45% model-FLOP utilisation, the whole run in under 120 s" in page
    assert "removal 2.74e+16" in page and "entrapment 1.31e+16" in page


def test_the_plan_for_7b_is_near_what_an_h200_measured() -> None:
    rows = {(row["micro_batch"], row["checkpoint"]): row for row in plan()}
    # Weights, gradients and two moments in float32, copies of the matrices in bfloat16.
    lasting = 16 * 6_738_415_616 + 2 * (SHAPES["7b"].products + 4096 * 32000)
    assert lasting < rows[8, False]["removal"] < rows[16, False]["removal"] < 139.8 * 2**30
    assert rows[32, True]["removal"] < rows[8, False]["removal"]
    kept = json.loads((records.FOLDER / "gpu.json").read_text())["result"]
    assert kept["shape"] == "7b" and "H200" in kept["device"]
    for phase in ("entrapment", "removal"):
        measured = kept["memory"][phase]["allocated"]
        assert 0 <= rows[kept["micro_batch"], kept["checkpoint"]][phase] / measured - 1 <= 0.15
