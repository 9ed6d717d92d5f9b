"""What benchmarks/gpu.py says of a run: its table, and the section of docs/performance.md."""

from typing import Any

from benchmarks.gpu_work import FULL, SHAPES

# Tried where there is no GPU.
TRIED = ("--shape", "tiny", "--device", "cpu")
# Utilisation of removal, seconds of the whole run: what one H200 should reach with 7b.
TARGETS = (0.45, 120.0)


def head(result: dict[str, Any]) -> str:
    """Return the line above the table."""
    peak = f"{result['peak'] / 1e12:.4g} TFLOP/s" if result["peak"] else "not known, so no utilisation (give --peak)"
    again = "computed again" if result["checkpoint"] else "kept"
    return (
        f"{result['device']}, {result['parameters']:,} weights ({result['shape']}), micro-batch "
        f"{result['micro_batch']}, activations {again}, peak {peak}"
    )


def table(result: dict[str, Any]) -> list[str]:
    """Return the figures as a table's lines."""
    lines = ["| phase | seconds | tokens/s | TFLOP/s | utilisation | peak GiB, tensors (reserved) |", "|---|---|---|---|---|---|"]
    for phase, seconds in result["seconds"].items():
        rate, used = result["tokens_per_second"].get(phase), result["flops_per_second"].get(phase, 0.0)
        share, held = result["utilisation"].get(phase), result["memory"].get(phase)
        cells = [
            phase,
            f"{seconds:.1f}",
            f"{rate:,.0f}" if rate else "–",
            f"{used / 1e12:,.3g}" if rate else "–",
            f"{share:.1%}" if share else "–",
            f"{held['allocated'] / 2**30:.1f} ({held['reserved'] / 2**30:.1f})" if held else "–",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return [*lines, f"| whole run | {result['whole']:.1f} | – | – | – | – |"]


def markdown(result: dict[str, Any]) -> str:
    """Return the section of docs/performance.md."""
    share, limit = TARGETS
    lines = [
        "## One GPU",
        "",
        f"`python -m benchmarks.gpu`: Llama-2-7B's shape with random weights, bfloat16 products and float32 master weights, with "
        f"torch and transformers alone. {FULL.defense} defense and {FULL.anchor} anchor rows of {FULL.prompt} prompt and "
        f"{FULL.answer} answer tokens, none padded; {FULL.epochs} epochs over all rows, each after {FULL.steps} inner steps at "
        f"batch {FULL.rows} over {FULL.inner_batches} fixed batches (`suffix`, l = {SHAPES['7b'].layer}, n = {FULL.length}). "
        f"Targets on one H200: removal at ≥ {share:.0%} model-FLOP utilisation, the whole run in under {limit:.0f} s.",
        "",
        *(_measured(result) if result["measured"] else _not_measured(result)),
        f"Operations of the run: removal {result['flops']['removal']:.2e} (6 N a token, and attention; "
        f"{result['flops']['removal_products']:.2e} without embeddings and without the head where no answer is predicted), "
        f"entrapment {result['flops']['entrapment']:.2e} by the fast path. What is computed again does not count. Time: each "
        "phase waits for the device; utilisation leaves out making the model and the warm-up (two entrapments and removal steps "
        "at the largest shapes), the whole run holds them.",
        "",
        "The memory plan for 7b, in GiB of tensors (an H200 holds 139.8), by rows computed at once in removal; it counts norms "
        "as they are spelled out, of which a GPU's kernel keeps less:",
        "",
        "| micro-batch | activations | entrapment | removal |",
        "|---|---|---|---|",
    ]
    for row in result["plan"]:
        again = "computed again" if row["checkpoint"] else "kept"
        lines.append(f"| {row['micro_batch']} | {again} | {row['entrapment'] / 2**30:.1f} | {row['removal'] / 2**30:.1f} |")
    return "\n".join([*lines, ""])


def _measured(result: dict[str, Any]) -> list[str]:
    again = ", activations computed again" if result["checkpoint"] else ""
    said = [f"{result['device']}, shape {result['shape']}, micro-batch {result['micro_batch']}{again}:", "", *table(result), ""]
    used = result["utilisation"]
    if used:
        said[0] = said[0].removesuffix(":") + f", peak {result['peak'] / 1e12:.4g} TFLOP/s:"
    if used and result["shape"] == "7b":
        reached = ["met" if ok else "missed" for ok in (used["removal"] >= TARGETS[0], result["whole"] < TARGETS[1])]
        products = used["removal_products"]
        said += [f"Utilisation target {reached[0]} (by products made alone {products:.1%}), time target {reached[1]}.", ""]
    return [*said, *(line for note in result["notes"] for line in (note, ""))]


def _not_measured(result: dict[str, Any]) -> list[str]:
    tried = result["tried"]
    if tried is None:
        return [f"**Not measured**: {result['why']}", ""]
    command = f"`python -m benchmarks.gpu {' '.join(TRIED)}`"
    return [f"**Not measured: {result['why']}.** Tried with a small shape: {command} ({tried['whole']:.1f} s).", ""]
