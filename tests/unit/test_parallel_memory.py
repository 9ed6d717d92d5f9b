"""The memory plan's arithmetic against figures worked out by hand, and one model measured. GB are 1e9 bytes."""

from dataclasses import replace
from pathlib import Path

import pytest

from beear.config.shape import SMALL
from beear.parallel import memory, replicated, zero_engine
from beear.parallel.memory import MemoryPlan, Spread, Work, plan_memory, removal_activations
from benchmarks.memory import Case, measure
from tests.shapes import SEVEN, SEVENTY, TINY, llama

# 8 rows of 128 prompt and 64 answer tokens; conversations as long, 64 of their columns labelled.
WORK = Work(rows=8, prompt=128, safe=64, unwanted=64, text=192, labelled=64, layer=9, untouched=123, inner_batches=2)
B7, B70 = llama(**SEVEN), llama(**SEVENTY)
GB = 1e9


def lasting(plan: MemoryPlan) -> list[float]:
    return [round(part / GB, 2) for part in (plan.removal.parameters, plan.removal.gradients, plan.removal.optimizer)]


def test_the_shapes_are_those_of_the_published_models() -> None:
    assert B7.parameters == 6_738_415_616
    assert B70.parameters == 68_976_648_192
    assert llama(**SEVEN, lora_rank=16).trained == 39_976_960


@pytest.mark.parametrize(
    ("backend", "workers", "stage", "weights", "gradients", "moments"),
    [
        # 4, 4 and 8 bytes for each of 6.738e9 weights
        ("single", 1, 3, 26.95, 26.95, 53.91),
        ("ddp", 8, 3, 26.95, 26.95, 53.91),
        ("fsdp", 8, 3, 3.37, 3.37, 6.74),
        # what ZeRO computes with, beside the masters that its optimizer steps on
        ("deepspeed", 8, 1, 26.95 + 3.37, 26.95, 6.74),
    ],
)
def test_weights_gradients_and_moments_of_7b(
    backend: str, workers: int, stage: int, weights: float, gradients: float, moments: float
) -> None:
    plan = plan_memory(B7, WORK, Spread(backend, workers, zero_stage=stage))
    assert lasting(plan) == pytest.approx([weights, gradients, moments], abs=0.011)


def test_70b_over_16_workers() -> None:
    plan = plan_memory(B70, replace(WORK, half=True), Spread("fsdp", 16, gather="step", gpu=True))
    # 68.977e9 x 4, 4 and 8 bytes over 16
    assert lasting(plan) == [17.24, 17.24, 34.49]
    # embedding, head and last norm, and two layers, in bfloat16: 2 x (524.3e6 + 2 x 855.65e6)
    assert plan.removal.gathered == pytest.approx(4.47 * GB, rel=0.01)
    once = plan_memory(B70, replace(WORK, half=True), Spread("fsdp", 16, gpu=True))
    assert once.entrapment.gathered == 2 * B70.parameters and once.removal.gathered == plan.removal.gathered


def test_a_lora_has_gradients_and_moments_of_its_own_alone() -> None:
    shape = llama(**SEVEN, lora_rank=16)
    plan = plan_memory(shape, WORK, Spread("single"))
    assert plan.removal.gradients == 4 * 39_976_960 and plan.removal.optimizer == 8 * 39_976_960
    assert plan.removal.parameters == 4 * (6_738_415_616 + 39_976_960)


@pytest.mark.parametrize("backend", ["single", "ddp"])
def test_replicas_compute_with_bfloat16_matrices_beside_masters_of_what_is_trained(backend: str) -> None:
    work, spread = replace(WORK, half=True), Spread(backend, 1, gpu=True)
    plan = plan_memory(B7, work, spread)
    # 4 bytes of 6.738e9, and 2 of all but the embeddings (131e6), which are looked up and not multiplied
    held = 4 * 6_738_415_616 + 2 * (6_738_415_616 - 131_072_000)
    assert all(use.parameters == pytest.approx(held, rel=1e-5) for use in (plan.first, plan.entrapment, plan.removal, plan.step))
    assert plan.removal.gathered == 0 and plan.removal.gradients == 4 * 6_738_415_616
    lora = plan_memory(llama(**SEVEN, lora_rank=16), work, spread).removal
    assert lora.parameters == pytest.approx(2 * (6_738_415_616 - 131_072_000) + 6 * 39_976_960 + 4 * 131_072_000, rel=1e-5)
    assert lora.gradients == 4 * 39_976_960


def test_removal_keeps_what_every_layer_saves_and_three_times_the_logits() -> None:
    # 32 layers x 4 bytes x (10 x 4096 + 4 x 11008 + 32 + 2) a token, and the masks of 192 x 192
    a_row = 32 * (4 * 85026 * 192 + 4 * 192 * 192)
    # 65 columns of 32,000 float32 logits: their softmax, its gradient and their own
    expected = 8 * (a_row + 3 * 4 * 65 * 32000)
    assert removal_activations(B7, WORK, Spread("single")) == expected
    assert removal_activations(B7, WORK, Spread("single", micro_batch=2)) == expected / 4
    # a checkpointed layer keeps its input; one is computed again at a time, after the logits have gone
    checkpointed = 8 * (32 * 4 * 4096 * 192 + max(a_row / 32, 3 * 4 * 65 * 32000))
    assert removal_activations(B7, WORK, Spread("single", checkpoint_activations=True)) == checkpointed


def test_the_fast_inner_loop_holds_less_than_the_plain_one_by_what_it_spares() -> None:
    """Two passes over prompt and answer against one over the last columns: the longer the prompt, the more it spares."""

    def share(prompt: int) -> float:
        work = replace(WORK, prompt=prompt, untouched=prompt - 5)
        plain, fast = (plan_memory(B7, replace(work, fast=on), Spread("single")).entrapment for on in (False, True))
        return fast.activations / plain.activations

    assert share(1024) < share(512) < share(128) < 0.6
    # 23 layers above the ninth keep 4 x (6 x 4096 + 3 x 11008 + 34) bytes a token of each of the two passes.
    plain = plan_memory(B7, replace(WORK, fast=False), Spread("single")).entrapment.activations
    layers = 2 * 23 * (4 * 57634 * 192 + 4 * 192 * 192)
    assert plain == pytest.approx(8 * (layers + 4 * (3 * 65 + 64) * 32000), rel=0.01)


def test_the_peak_is_the_largest_phase() -> None:
    plan = plan_memory(B7, WORK, Spread("single"))
    assert plan.peak.total == max(use.total for use in (plan.first, plan.entrapment, plan.removal, plan.step))
    use = plan.peak
    assert use.total == use.parameters + use.gradients + use.optimizer + use.gathered + use.activations + use.buffers
    # Without any rows to speak of the step is the peak: a bucket of gradients or two copies of the largest weight.
    small = plan_memory(llama(**TINY), replace(WORK, rows=1, prompt=1, safe=1, unwanted=1, text=2, labelled=1), Spread("single"))
    assert small.peak.phase == "the optimizer step" and small.peak.buffers == 2 * 4 * 1200 * 128


def test_buckets_are_those_of_the_backends() -> None:
    assert memory.BUCKET == replicated.BUCKET_BYTES
    assert (memory.ZERO_BUCKET, SMALL) == (zero_engine.BUCKET, zero_engine.PERSISTENT)
    # Gradients of 7B are more than a bucket holds, those of its LoRA less.
    assert plan_memory(B7, WORK, Spread("deepspeed", 2, zero_stage=1)).removal.buffers == 4e8
    lora = llama(**SEVEN, lora_rank=16)
    assert plan_memory(lora, WORK, Spread("deepspeed", 2, zero_stage=1)).removal.buffers == 4 * 39_976_960


def test_a_measured_model_needs_what_was_planned(tmp_path: Path) -> None:
    """The allocator's own count, of a removal and an entrapment through the real method."""
    (row,) = measure(tmp_path, [Case("3M", "single", 1)])["rows"]
    assert row["planned"]["removal"] == max(row["planned"].values())
    for phase in ("entrapment", "removal", "step"):
        assert row["planned"][phase] == pytest.approx(row["measured"][phase], rel=0.15), phase
