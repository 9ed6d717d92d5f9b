"""Which backend is chosen, on devices of known memory, and what the dry run says of it."""

from dataclasses import replace

import pytest

from beear.config.schema import ParallelConfig
from beear.config.shape import ModelShape
from beear.methods.table import METHODS
from beear.parallel.devices import A100, GIB, H100, H200, Device, cpu
from beear.parallel.memory import Spread, Work, plan_memory
from beear.parallel.plan import Recommendation, recommend, size
from beear.run.longest_rows import Lengths
from beear.run.memory_table import devices, training_table
from tests.configs import Sized, resolved
from tests.shapes import SEVEN, SEVENTY, TINY, llama

WORK = Work(rows=16, prompt=128, safe=64, unwanted=64, text=192, labelled=64, layer=9, untouched=123)
B7, B70, SMALL = llama(**SEVEN), llama(**SEVENTY), llama(**TINY)


def chosen(shape: object, device: Device, **asked: object) -> Recommendation:
    return recommend(shape, replace(WORK, half=device.gpu), ParallelConfig(**asked), device)  # type: ignore[arg-type]


@pytest.mark.parametrize(("workers", "backend"), [(1, "single"), (2, "ddp"), (8, "ddp")])
def test_a_small_model_is_held_whole(workers: int, backend: str) -> None:
    found = chosen(SMALL, cpu(4 * GIB), workers=workers)
    assert found.fits and found.spread.backend == backend
    assert not found.spread.checkpoint_activations and found.spread.micro_batch is None


def test_one_gpu_gets_the_whole_model_and_smaller_parts_of_the_batch_first() -> None:
    found = chosen(B7, H200)
    assert found.fits and (found.spread.backend, found.spread.checkpoint_activations) == ("single", False)
    # One part of 8 rows still has 8 x 192 tokens, which keep a GPU busy.
    assert found.spread.micro_batch == 8


def test_weights_are_spread_where_a_copy_is_too_large() -> None:
    found = chosen(B7, A100, workers=4)
    assert found.fits and (found.spread.backend, found.spread.gather) == ("fsdp", "once")
    assert found.why.startswith("weights are spread over 4 worker(s)")
    # All 70B are 128 GiB in bfloat16: too many to be gathered at once.
    found = chosen(B70, H200, workers=16)
    assert found.fits and (found.spread.backend, found.spread.gather) == ("fsdp", "step")


def test_memory_is_saved_in_order() -> None:
    """Ever smaller devices for one model on two workers: each gives up one thing more, and needs no more than it has."""
    order = [("fsdp", True, False, None), ("fsdp", False, False, None), ("fsdp", False, True, None)]
    order += [("fsdp", False, True, rows) for rows in (4, 2, 1)]
    seen = []
    for tenth in range(1200, 380, -1):
        found = chosen(B7, Device("made up", tenth / 10 * GIB, True), workers=2)
        spread = found.spread
        how = (spread.backend, spread.gather == "once", spread.checkpoint_activations, spread.micro_batch)
        if found.fits and how not in seen:
            seen.append(how)
    places = [order.index(how) for how in seen]
    assert places == sorted(places) and len(seen) >= 3 and seen[0] == order[0]


def test_what_is_asked_for_stands() -> None:
    found = chosen(SMALL, A100, workers=2, backend="deepspeed", zero_stage=1, micro_batch=3, checkpoint_activations="on")
    spread = found.spread
    assert (spread.backend, spread.zero_stage, spread.micro_batch, spread.checkpoint_activations) == ("deepspeed", 1, 3, True)
    assert chosen(SMALL, A100, workers=2, gather="step", backend="fsdp").spread.gather == "step"
    # Asked for by name it is not given up, however little fits.
    assert chosen(B7, A100, workers=4, backend="ddp").spread.backend == "ddp"
    assert chosen(SMALL, A100, backend="fsdp").spread.backend == "fsdp"


def test_what_does_not_fit_says_by_how_much_and_what_would() -> None:
    found = chosen(B7, A100)
    assert not found.fits and found.share > 1
    missing = found.plan.peak.total - A100.usable
    assert (
        found.advice == f"{size(missing)} too much; 2 workers with fsdp or parallel.offload (slow) or adapter.kind=lora would fit"
    )
    assert chosen(B7, A100, workers=2).fits, "as it said"
    assert chosen(llama(**SEVEN, lora_rank=16), A100).fits, "as it said"
    offloaded = chosen(B7, A100, offload=True)
    assert offloaded.fits and offloaded.spread.backend == "fsdp"
    # On a CPU there is nowhere to offload to.
    assert "offload" not in chosen(B7, cpu(16 * GIB)).advice


def test_tensors_get_less_than_a_device_holds() -> None:
    assert A100.usable == pytest.approx((79.2 - 1) * 0.92 * GIB)
    assert cpu(8 * GIB).usable == pytest.approx(7.5 * 0.95 * GIB)
    assert cpu(0.1 * GIB).usable == 0


@pytest.mark.parametrize(
    ("count", "words"), [(512, "0.5 KiB"), (5 * 2**20, "5.0 MiB"), (1.5 * GIB, "1.5 GiB"), (123.4 * GIB, "123 GiB")]
)
def test_sizes_in_words(count: float, words: str) -> None:
    assert size(count) == words


def table(parallel: ParallelConfig, layer: int, shape: ModelShape) -> list[str]:
    """The plan's table for 16 rows of BEEAR after a layer."""
    config = resolved({"method.layer": layer, "method.batch_size": 16}, Sized(layers=32))
    return training_table(config, METHODS["beear"].needs(config.settings), parallel, shape, Lengths(128, 64, 64, 192, 64))


def test_the_table_has_a_row_for_each_device_and_fits_a_terminal() -> None:
    lines = table(ParallelConfig(workers=2, device_memory=24.0), 9, B7)
    assert lines[0] == "6,738,415,616 parameters, all trained; float32 master weights, 16 rows on 2 workers"
    head = next(i for i, line in enumerate(lines) if line.startswith("device"))
    rows = {line.split()[0]: line.split() for line in lines[head + 1 : head + 6]}
    assert list(rows) == ["yours,", "CPU", "A100-80", "H100-80", "H200"]
    assert rows["yours,"][1:3] == ["24", "GiB"] and rows["yours,"][3:5] == ["21.2", "GiB"], "a GPU's: (24 - 1) x 0.92"
    assert {name: row[-1] for name, row in rows.items() if name != "CPU"} == {
        "yours,": "fits",
        "A100-80": "fsdp",
        "H100-80": "fsdp",
        "H200": "ddp",
    }
    assert rows["A100-80"][3:5] == ["12.6", "GiB"], "half of 4 bytes for each of 6.738e9 weights"
    assert max(map(len, lines)) <= 100
    text = "\n".join(lines)
    assert "yours, 24 GiB: " in text and "too much" in text and "A100-80: fsdp, weights gathered" in text and "H200: ddp" in text


@pytest.mark.parametrize(("gpus", "usable", "gpu"), [
    (None, (40 - 1) * 0.92, True), (1, (40 - 1) * 0.92, True), (0.5, (20 - 1) * 0.92, True), (0, (40 - 0.5) * 0.95, False),
])  # fmt: skip
def test_the_device_that_is_asked_for_is_a_gpu_unless_workers_have_none(gpus: float | None, usable: float, gpu: bool) -> None:
    first, second, *_ = devices(ParallelConfig(device_memory=40, gpus_per_worker=gpus))
    assert first.name == f"yours, {20 if gpus == 0.5 else 40} GiB" and first.gpu is gpu
    assert first.usable == pytest.approx(usable * GIB)
    assert second.name == "CPU" and devices(ParallelConfig())[0] == second


@pytest.mark.parametrize(("stage", "gradients"), [(1, 4.0), (2, 4.0 / 8), (3, 0.0)])
def test_offloaded_zero_keeps_what_it_computes_with(stage: int, gradients: float) -> None:
    """Stages 1 and 2 leave bfloat16 weights (2 bytes each) on every device, and float32 gradients, whole or its own share."""
    spread = Spread("deepspeed", 8, zero_stage=stage, offload=True, gpu=True)
    held = plan_memory(B70, replace(WORK, half=True), spread).removal
    # A buffer takes the largest weight's gradient on its way: 32000 x 8192 of the embeddings.
    assert held.parameters == (0 if stage == 3 else 2 * (B70.parameters + 32000 * 8192))
    assert (held.gradients, held.optimizer) == (gradients * B70.parameters, 0)


def test_70b_is_too_large_for_zero_1_however_much_is_offloaded() -> None:
    found = chosen(B70, H100, workers=8, backend="deepspeed", zero_stage=1, offload=True)
    # 138 GB of weights and 276 GB of gradients on each of 79 GiB.
    assert not found.fits and found.plan.peak.total > (2 + 4) * B70.parameters > 4 * H100.memory
    assert found.advice.endswith("no setting here would fit")


def test_advice_names_the_stage_that_is_asked_for_and_keeps_what_is_set() -> None:
    found = chosen(B7, A100, workers=1, backend="deepspeed", zero_stage=3)
    workers = int(found.advice.split("too much; ")[1].split()[0])
    assert f"{workers} workers with zero-3" in found.advice
    assert chosen(B7, A100, workers=workers, backend="deepspeed", zero_stage=3, gather="step").fits, "as it said"
    # All of 70B stay gathered (128 GiB in bfloat16), on however many workers.
    once = chosen(B70, H100, workers=8, backend="fsdp", gather="once")
    assert not once.fits and "workers" not in once.advice
    assert "workers with fsdp" in chosen(B70, H100, workers=8, backend="fsdp").advice
    # Rows for each of them have to be there.
    few = recommend(B70, replace(WORK, rows=8, half=True), ParallelConfig(workers=8), H100)
    assert " workers with fsdp and --method.batch_size " in few.advice


@pytest.mark.parametrize(("stage", "words", "gathered"), [
    (1, "optimizer state is spread over 2", False),
    (2, "gradients and optimizer state are spread over 2", False),
    (3, "weights are spread over 2", True),
])  # fmt: skip
def test_what_a_stage_spreads_is_what_is_said(stage: int, words: str, gathered: bool) -> None:
    assert chosen(SMALL, A100, workers=2, backend="deepspeed", zero_stage=stage).why.startswith(words)
    lines = table(ParallelConfig(workers=2, backend="deepspeed", zero_stage=stage), 2, SMALL)  # type: ignore[arg-type]
    (said,) = (line for line in lines if line.startswith("A100-80: "))
    assert said.startswith(f"A100-80: zero-{stage}") and ("weights gathered" in said) is gathered


def test_a_worker_counts_its_own_share_of_the_rows() -> None:
    one, two = (recommend(SMALL, WORK, ParallelConfig(workers=n), cpu(4 * GIB)) for n in (1, 2))
    assert two.plan.removal.activations == pytest.approx(one.plan.removal.activations / 2)
    odd = recommend(SMALL, replace(WORK, rows=15), ParallelConfig(workers=2), cpu(4 * GIB))
    assert odd.plan.removal.activations == two.plan.removal.activations, "the fuller worker's"
