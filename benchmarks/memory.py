"""The memory plan beside the measured peak of tensor memory, for three model sizes and every backend.

    python -m benchmarks.memory [--quick]

Each case runs the real method (entrapment, removal) on synthetic batches in processes of its own kind (one, or two with
gloo), float32 on CPUs.
"""

import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.pool import Pool

LIMIT, SECONDS, STEPS = 0.15, 600.0, 3
ROWS, PROMPT, ANSWER, TEXT, SUFFIX, LAYER = 8, 64, 24, 88, 5, 2
# name: hidden, intermediate, layers, vocabulary; the first warms up
SIZES = {"0.3M": (64, 176, 3, 1024), "3M": (160, 432, 7, 2048), "12M": (288, 768, 9, 4096), "40M": (512, 1376, 10, 8192)}
MEASURED = ["3M", "12M", "40M"]


@dataclass(frozen=True)
class Case:
    """One way of spreading a model."""

    size: str
    backend: str
    workers: int = 2
    stage: int = 3
    lora: bool = False
    checkpoint: bool = False
    gather_once: bool = True
    micro_batch: int | None = None

    @property
    def name(self) -> str:
        """The case in words."""
        backend = f"zero-{self.stage}" if self.backend == "deepspeed" else self.backend
        extras = [
            word
            for word, on in (
                ("gathered per step", not self.gather_once),
                ("checkpointed", self.checkpoint),
                (f"micro-batch {self.micro_batch}", self.micro_batch is not None),
            )
            if on
        ]
        return ", ".join([f"{backend} x{self.workers}", "LoRA" if self.lora else "full", *extras])


def cases(sizes: list[str]) -> list[Case]:
    """Return every case."""
    plain = [("single", 1, 3), ("ddp", 2, 3), ("fsdp", 2, 3), ("deepspeed", 2, 1), ("deepspeed", 2, 2), ("deepspeed", 2, 3)]
    found = []
    for size in sizes:
        whole = [Case(size, backend, workers, stage) for backend, workers, stage in plain]
        found += [replace(case, lora=lora) for lora in (False, True) for case in whole]
        found += [replace(whole[0], checkpoint=True), replace(whole[0], micro_batch=2)]
        found += [replace(whole[2], checkpoint=True), replace(whole[2], gather_once=False), replace(whole[5], gather_once=False)]
    return found


def measure(folder: Path, chosen: list[Case] | None = None) -> dict[str, Any]:
    """Run every case (or the ``chosen`` ones) and return planned and measured bytes; ``folder`` is not used."""
    rows = []
    for world in (1, 2):
        group = [case for case in chosen or cases(MEASURED) if case.workers == world]
        if not group:
            continue
        pool = Pool(world, SECONDS)
        try:
            # What libraries allocate at their first use is no tensor.
            pool.run(run, replace(group[0], size="0.3M"))
            for case in group:
                peaks = pool.run(run, case)
                measured = {phase: max(peak[phase] for peak in peaks) for phase in peaks[0]}
                rows.append({"size": case.size, "case": case.name, "measured": measured, **planned(case)})
        finally:
            pool.close()
    return {"rows": rows}


def planned(case: Case) -> dict[str, Any]:
    """Return the plan's bytes by phase and the model's parameters."""
    from transformers import LlamaConfig

    from beear.models.adapters import attach_lora
    from beear.models.shape import shape_of, weightless
    from beear.parallel.memory import Work, plan_memory
    from beear.parallel.spread import Spread

    shape = shape_of(attach_lora(weightless(LlamaConfig(**_config(case.size))), _adapter(case)))
    work = Work(ROWS // case.workers, PROMPT, ANSWER, ANSWER, TEXT, ANSWER, LAYER, untouched=PROMPT - SUFFIX, inner_batches=1)
    spread = Spread(
        case.backend,
        case.workers,
        zero_stage=case.stage,
        gather="once" if case.gather_once else "step",
        micro_batch=case.micro_batch,
        checkpoint_activations=case.checkpoint,
    )
    plan = plan_memory(shape, work, spread)
    phases = {"entrapment": (plan.first, plan.entrapment), "removal": (plan.removal,), "step": (plan.step,)}
    found = {name: round(max(use.total for use in uses)) for name, uses in phases.items()}
    return {"parameters": shape.parameters, "planned": found}


def _config(size: str) -> dict[str, Any]:
    hidden, intermediate, layers, vocabulary = SIZES[size]
    return {
        "vocab_size": vocabulary,
        "hidden_size": hidden,
        "intermediate_size": intermediate,
        "num_hidden_layers": layers,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "tie_word_embeddings": False,
        "max_position_embeddings": 256,
    }


def _adapter(case: Case) -> Any:
    from beear.config.schema import AdapterConfig

    return AdapterConfig(kind="lora" if case.lora else "none")


def run(rank: int, world: int, case: Case) -> dict[str, int]:
    """Run two epochs of a few steps each and return the peak bytes of each phase on this worker."""
    import gc

    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from beear.config.resolve import ResolvedMethod
    from beear.data.batch import OuterBatch
    from beear.methods.base import MethodParts
    from beear.methods.beear import BeearSettings
    from beear.methods.bilevel import Bilevel
    from beear.models.adapters import attach_lora
    from beear.models.decoder import Decoder
    from beear.parallel.base import Whole
    from beear.parallel.choose import choose
    from beear.parallel.spread import Spread
    from benchmarks.tensor_memory import Meter

    meter = Meter()
    with meter.watching() as span:
        torch.manual_seed(0)
        model = attach_lora(LlamaForCausalLM(LlamaConfig(**_config(case.size))), _adapter(case))
        gather = "once" if case.gather_once else "step"
        spread = Spread(case.backend, case.workers, case.stage, gather=gather, checkpoint_activations=case.checkpoint)
        backend = choose(spread, "cpu")
        source = Whole(model)
        del model
        model = backend.prepare(source, 1e-3)
        # A model refers to itself in circles: what the backend did not keep goes now.
        del source
        gc.collect()
        own = BeearSettings(layer=LAYER, placement="suffix", length=SUFFIX, inner_steps=2, inner_batches=1)
        training = ResolvedMethod(outer_lr=1e-3, batch_size=ROWS)
        method = Bilevel(MethodParts(Decoder(model), backend, own, training, 0, SIZES[case.size][0], case.micro_batch))
        step = backend.step

        def watched(clip: float) -> float:
            gc.collect()
            with span("step"):
                return step(clip)

        backend.step = watched  # type: ignore[method-assign]
        share = ROWS // case.workers
        for epoch in range(2):
            inner, outer, text = batches(share, SIZES[case.size][3], epoch)
            # When Python finds circles that the libraries leave behind is chance, and no part of the plan.
            gc.collect()
            with span("entrapment"):
                method.begin_epoch([inner], cools=False)
            # Where weights are fetched as they are needed, the library first has to see in what order.
            for _ in range(STEPS):
                gc.collect()
                with span("removal"):
                    method.step(OuterBatch(outer, text))
    return meter.peaks


def batches(share: int, vocabulary: int, seed: int) -> tuple[Any, Any, Any]:
    """Return two defense batches and a text batch [share rows each], ragged, with the longest row of each at full length.

    Four rows are longest in the prompt, in either answer, or in all together: as many as the first entrapment checks.
    """
    import torch

    from beear.data.batch import DefenseBatch, TextBatch

    draw = torch.Generator().manual_seed(seed)

    def tokens(width: int) -> torch.Tensor:
        return torch.randint(1, vocabulary, (share, width), generator=draw)

    def present(width: int, longest: int, left: bool = False) -> torch.Tensor:
        lengths = torch.full((share,), width - 4)
        lengths[longest], lengths[3] = width, width - 1
        mask = torch.arange(width).expand(share, -1) < lengths[:, None]
        return mask.flip(-1) if left else mask

    def defense() -> DefenseBatch:
        safe, unwanted = present(ANSWER, 1), present(ANSWER, 2)
        return DefenseBatch(
            tokens(PROMPT), present(PROMPT, 0, left=True), torch.full((share,), 2),
            tokens(ANSWER), safe, safe, safe, tokens(ANSWER), unwanted, unwanted, unwanted, ROWS,
        )  # fmt: skip

    mask = present(TEXT, 0)
    labelled = mask & (torch.arange(TEXT) >= TEXT - ANSWER)
    return defense(), defense(), TextBatch(tokens(TEXT), mask, labelled, ROWS)


def markdown(result: dict[str, Any]) -> str:
    """Return the section of docs/performance.md."""
    worst = max(abs(_off(row)) for row in result["rows"])
    lines = [
        "## The memory plan and the measured peak",
        "",
        "Random Llama-like models, float32, entrapments and removal steps with AdamW's state in place; peak of tensor "
        f"memory by the allocator, the fuller worker's. Largest difference {worst:.1%} (limit {LIMIT:.0%}).",
        "",
        "| parameters | backend | planned MB | measured MB | difference |",
        "|---|---|---|---|---|",
    ]
    for row in result["rows"]:
        plan, peak = max(row["planned"].values()), max(row["measured"].values())
        size = f"{row['parameters'] / 1e6:.1f}M"
        lines.append(f"| {size} | {row['case']} | {plan / 1e6:.1f} | {peak / 1e6:.1f} | {_off(row):+.1%} |")
    return "\n".join([*lines, ""])


def _off(row: dict[str, Any]) -> float:
    return max(row["planned"].values()) / max(row["measured"].values()) - 1


def main(words: list[str]) -> int:
    """Print the table."""
    result = measure(Path(), cases(["3M"]) if "--quick" in words else None)
    print(markdown(result))
    return 0 if all(abs(_off(row)) <= LIMIT for row in result["rows"]) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
