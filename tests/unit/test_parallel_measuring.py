"""The memory that measuring needs, against figures worked out by hand."""

from dataclasses import replace

import pytest

from beear.evaluation import likelihood
from beear.parallel import measuring
from beear.parallel.devices import GIB, Device, cpu
from beear.parallel.measuring import Measuring, plan_measuring
from beear.parallel.memory import Spread, Work, plan_memory
from beear.run.longest_rows import Lengths
from tests.configs import Sized, resolved
from tests.shapes import SEVEN, llama

WHAT = Measuring(rows=64, prompt=128, new=32, text=192, labelled=64, half=True, attack=None)
GPU = Device("GPU", 24 * GIB, gpu=True)
B7 = llama(**SEVEN)


def test_7b_by_hand() -> None:
    plan = plan_measuring(B7, WHAT, GPU)
    assert plan.weights == 2 * 6_738_415_616
    # Keys and values of 160 tokens in 32 layers, what one layer keeps of 128, and logits.
    kept = 3 * (6 * 4096 + 3 * 11008 + 34)
    row = 32 * 2 * 4096 * 160 * 2 + kept * 128 + 2 * 128 * 128 + 4 * 32000
    assert plan.completions == 64 * row
    # 2**27 numbers are 65 rows of 64 x 32000 logits: in bfloat16 and twice in float32.
    assert plan.likelihoods == 64 * (kept * 192 + 2 * 192 * 192 + 64 * 32000 * 10)
    assert plan.most == ("completions", plan.completions) and plan.total == plan.weights + plan.completions
    assert plan.least == max(row, plan.likelihoods / 64) and plan.fits


def test_a_cpu_holds_float32_and_a_lora_is_merged_by_then() -> None:
    lora = llama(**SEVEN, lora_rank=16)
    assert plan_measuring(lora, replace(WHAT, half=False), cpu(64 * GIB)).weights == 4 * 6_738_415_616
    # bfloat16 products on a CPU leave the weights as they are.
    assert plan_measuring(B7, WHAT, cpu(64 * GIB)).weights == 4 * 6_738_415_616


def test_large_vocabularies_shrink_the_batches_of_likelihoods() -> None:
    assert measuring.LOGITS == likelihood.LOGIT_BUDGET
    wide = replace(WHAT, rows=1000)
    together = 2**27 // (64 * 32000)
    assert plan_measuring(B7, wide, GPU).likelihoods == together * plan_measuring(B7, replace(WHAT, rows=1), GPU).likelihoods


@pytest.mark.parametrize(("memory", "fits", "hopeless"), [(30, True, False), (16, False, False), (13, False, True)])
def test_what_may_not_fit_and_what_cannot(memory: float, fits: bool, hopeless: bool) -> None:
    # 12.55 GiB of weights, 5.4 GiB for 64 rows, 0.08 for one; 1 GiB is the driver's.
    plan = plan_measuring(B7, WHAT, Device("GPU", memory * GIB, gpu=True))
    assert (plan.fits, plan.hopeless) == (fits, hopeless)
    assert plan_measuring(B7, replace(WHAT, beside=0.5), Device("GPU", 2 * memory * GIB - GIB, True)).hopeless is hopeless


def test_attacks_are_steps_of_entrapment_on_frozen_weights() -> None:
    given, deep = {"evaluate.batch_size": 64, "evaluate.resistance.layers": "12,9"}, Sized(layers=32)
    lengths = Lengths(prompt=128, safe=64, unwanted=64, text=192, labelled=64)
    what = lengths.measuring(resolved(given, deep), gpu=True)
    # 64 rows: 32 fitted and 32 held out, in batches of 16.
    work = Work(16, 128, 64, 64, 192, 64, layer=9, inner_batches=4, half=True)
    assert what == replace(WHAT, attack=work)
    plan = plan_measuring(B7, what, GPU)
    assert plan.attacks == plan_memory(B7, work, Spread("single", gpu=True)).entrapment.activations
    # 23 layers of frozen activations of 256 columns, for 16 rows.
    assert plan.attacks > 16 * 23 * 3 * (6 * 4096 + 3 * 11008) * 256
    given |= {"evaluate.resistance.enabled": False, "evaluate.rows": 10, "evaluate.engine": "vllm"}
    assert lengths.measuring(resolved(given, deep), gpu=True) == replace(WHAT, rows=10, beside=0.5)
