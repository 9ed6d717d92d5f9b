"""BEEAR on one GPU and a model of random weights, with torch and transformers alone: speed, use of the device, memory.

    python -m benchmarks.gpu [--shape 7b] [--micro-batch 24] [--checkpoint] [--json FILE]    on a machine with a GPU
    python -m benchmarks.gpu --shape tiny --device cpu                                      seconds, anywhere
    python -m benchmarks.evidence --record FILE                                             keeps FILE in docs/evidence

bfloat16 matrices, float32 master weights. Memory for 7b (N = 6.74e9) in GB: masters 4N = 27, gradients 27, AdamW's moments
54, and the bfloat16 matrices that the model computes with 13; that is 121, always there after the first step. In removal, of
each row in a micro-batch, 1.1 that layers keep (175 kB a token and layer). So 138 at 16 rows, 147 at 24, of the 150 that an
H200 holds. In entrapment there are no gradients: 113 with all 32 rows at once, less in the first one, where AdamW has no
state yet. AdamW must be the fused
one: the default makes copies as large as the weights. Weights are drawn on the GPU. A warm-up at the largest shapes comes
first, twice over, since only the second finds AdamW's state in place: memory runs out there or never.

Segments of memory that expand let phases whose tensors differ in size use the same memory; fixed ones leave gaps. TF32 stays
off: all large products are bfloat16 already.
"""

import argparse
import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from beear.errors import UserError
from benchmarks import gpu_page, gpu_work, records
from benchmarks.gpu_page import TRIED, markdown
from benchmarks.gpu_work import FULL, SHAPES, TINY, Recipe, Rows, Work, flops_of, plan, tokens_of

__all__ = ["main", "markdown", "measure"]

ROOT = Path(__file__).resolve().parents[1]
OUTER_LR = 1e-5
PHASES = ("entrapment", "removal")
# Dense bfloat16, by what the driver calls a device; the first that fits.
PEAKS = (("H200 NVL", 835e12), ("H100 NVL", 835e12), ("H100 PCIe", 756e12), ("H200", 989e12), ("H100", 989e12), ("A100", 312e12))


class Clock:
    """Seconds and peak bytes of named phases; work queued on a GPU is waited for at both ends."""

    def __init__(self, device: Any) -> None:
        """Begin."""
        self.device, self.seconds, self.now = device, dict[str, float](), ""
        self.memory: dict[str, dict[str, int]] = {}

    @contextmanager
    def phase(self, name: str, part: str = "") -> Iterator[None]:
        """Add what happens within to phase ``name``; ``part`` says which of its parts it is."""
        import torch

        gpu, self.now = self.device.type == "cuda", f"{name} ({part})" if part else name
        if gpu:
            torch.cuda.reset_peak_memory_stats(self.device)
        began = self.read()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + self.read() - began
        if gpu:
            held, old = torch.cuda, self.memory.get(name, {})
            peaks = {"allocated": held.max_memory_allocated(self.device), "reserved": held.max_memory_reserved(self.device)}
            self.memory[name] = {kind: max(peak, old.get(kind, 0)) for kind, peak in peaks.items()}

    def read(self) -> float:
        """Return the time in seconds once the device has done all that it was given."""
        import torch

        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()


def run(shape: str, work: Work, device_name: str, micro_batch: int, checkpoint: bool) -> dict[str, Any]:
    """Make the model, warm up, run all epochs, and return seconds, peak bytes, losses and notes.

    Raises:
        UserError: the device's memory does not suffice.
    """
    import torch

    # Reading libraries is no part of the run; the library reads a model's code when it is first asked for.
    from transformers import LlamaForCausalLM  # noqa: F401

    device = torch.device(device_name)
    clock = Clock(device)
    began = clock.read()
    try:
        with clock.phase("model"):
            method, recipe, rows = build(shape, work, device, micro_batch, checkpoint)
        warm_up(clock, method, recipe, rows)
        for epoch in range(1, work.epochs + 1):
            inner, outer = rows.epoch(epoch)
            with clock.phase("entrapment"):
                (course,) = method.begin_epoch(inner, cools=False)
            with clock.phase("removal"):
                steps = [method.step(batch) for batch in outer]
    except torch.OutOfMemoryError:
        raise UserError(no_memory(clock, micro_batch, checkpoint)) from None
    whole = clock.read() - began
    taken = (course.result.steps, len(steps))
    if taken != (work.steps, work.removal_steps):
        raise RuntimeError(f"{taken} inner and removal steps in an epoch, expected {(work.steps, work.removal_steps)}")
    last = {"unwanted": course.result.loss_unwanted[-1], "safe": course.result.loss_safe[-1], **steps[-1]}
    return {"seconds": clock.seconds, "whole": whole, "memory": clock.memory, "last_losses": last, "notes": method.notes}


def build(shape: str, work: Work, device: Any, micro_batch: int, checkpoint: bool) -> tuple[Any, Recipe, Rows]:
    """Return the method over a model drawn on ``device``, its recipe, and the rows."""
    import torch
    from transformers import AutoModelForCausalLM

    from beear.methods.base import MethodParts
    from beear.methods.bilevel import Bilevel
    from beear.models.decoder import Decoder
    from beear.models.fused import fuse
    from beear.parallel.base import Whole
    from beear.parallel.replicated import Single
    from beear.parallel.spread import Spread

    llama = SHAPES[shape]
    torch.manual_seed(0)
    with device:
        model = AutoModelForCausalLM.from_config(llama.config(), dtype=torch.float32, attn_implementation="sdpa")
    backend = Single(device, Spread(checkpoint_activations=checkpoint), torch.bfloat16)
    model = backend.prepare(Whole(model), OUTER_LR)
    if device.type == "cuda":
        fuse(model)
    decoder = Decoder(model, torch.bfloat16)
    recipe = Recipe(perturbed_layer=llama.layer, inner_steps=work.steps, length=work.length)
    parts = MethodParts(decoder, backend, recipe, recipe, 0, llama.hidden, micro_batch)
    return Bilevel(parts), recipe, Rows(llama, work, device)


def warm_up(clock: Clock, method: Any, recipe: Recipe, rows: Rows) -> None:
    """Entrap for one step a batch and remove for one, twice: the second time the optimizer's state takes its memory too."""
    steps, recipe.inner_steps = recipe.inner_steps, rows.work.inner_batches
    for _ in range(2):
        inner, outer = rows.epoch(0)
        with clock.phase("warm-up", "entrapment"):
            method.begin_epoch(inner, cools=False)
        with clock.phase("warm-up", "removal"):
            method.step(next(outer))
    recipe.inner_steps = steps


def no_memory(clock: Clock, micro_batch: int, checkpoint: bool) -> str:
    """Return what a device without enough memory is reported with."""
    import torch

    total = torch.cuda.get_device_properties(clock.device).total_memory / 2**30
    ways = ["a smaller --micro-batch", *([] if checkpoint else ["--checkpoint"]), "a smaller --shape or a larger device"]
    return (
        f"--micro-batch {micro_batch}: the device's {total:.1f} GiB ran out in phase {clock.now} "
        f"({torch.cuda.max_memory_allocated(clock.device) / 2**30:.1f} GiB of tensors); expected {', '.join(ways)}."
    )


def peak_of(name: str) -> float | None:
    """Return the most FLOP/s of a device by its name, None for one that is not known."""
    return next((peak for part, peak in PEAKS if part in name), None)


def report(shape: str, device: str, micro_batch: int, checkpoint: bool, peak: float | None) -> dict[str, Any]:
    """Run and return everything that is said of it, as plain data."""
    import torch
    import transformers

    work, gpu = TINY if shape == "tiny" else FULL, torch.device(device).type == "cuda"
    found = run(shape, work, device, micro_batch, checkpoint)
    name = torch.cuda.get_device_name(torch.device(device)) if gpu else "CPU"
    peak = peak or peak_of(name)
    tokens, flops, seconds = tokens_of(work), flops_of(SHAPES[shape], work), found["seconds"]
    used = {kind: flops[kind] / seconds[kind.removesuffix("_products")] for kind in flops}
    return {
        "measured": gpu,
        **{"shape": shape, "parameters": SHAPES[shape].parameters, "work": vars(work), "device": name},
        **{"micro_batch": micro_batch, "checkpoint": checkpoint, "peak": peak},
        **{"torch": torch.__version__, "transformers": transformers.__version__},
        **{"date": time.strftime("%Y-%m-%d"), "python": sys.version.split()[0], "code": code_digest()},
        **found,
        "flops": flops,
        "tokens_per_second": {phase: tokens[phase] / seconds[phase] for phase in PHASES},
        "flops_per_second": used,
        "utilisation": {kind: rate / peak for kind, rate in used.items()} if peak else {},
    }


def code_digest() -> str:
    """Return the sha256 of all code that a run uses, so that what was measured elsewhere is known to be this code's."""
    files = [path for room in ("data", "methods", "models", "parallel") for path in (ROOT / "beear" / room).glob("*.py")]
    files += [Path(__file__), Path(gpu_work.__file__), Path(gpu_work.entrapment.__file__), Path(gpu_work.synthetic.__file__)]
    digest = hashlib.sha256()
    for path in sorted(files):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def measure(folder: Path) -> dict[str, Any]:
    """Run the full shape where there is a GPU, else the smallest on a CPU to see that the script works.

    A measurement made elsewhere and recorded is kept where there is no GPU.
    """
    import torch

    folder.mkdir(parents=True, exist_ok=True)
    file, gpu = folder / "gpu.json", torch.cuda.is_available()
    kept = records.read("gpu")
    if not gpu and kept and kept["result"]["measured"]:
        return {}
    words = [] if gpu else list(TRIED)
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.gpu", *words, "--json", str(file)], cwd=ROOT, capture_output=True, text=True
    )
    print(done.stdout, flush=True)
    if done.returncode not in (0, 2):
        raise RuntimeError(done.stderr)
    if gpu and done.returncode == 0:
        return {**json.loads(file.read_text()), "plan": plan()}
    why = done.stderr.strip().splitlines()[-1].removeprefix("error: ") if done.returncode else "no GPU"
    tried = json.loads(file.read_text()) if done.returncode == 0 else None
    return {"measured": False, "why": why, "tried": tried, "flops": flops_of(SHAPES["7b"], FULL), "plan": plan()}


def recorded(path: Path) -> dict[str, Any]:
    """Return the record of a run of this code on another machine, for :func:`benchmarks.records.write`.

    Raises:
        UserError: the file is not a GPU run's result, or other code made it.
    """
    try:
        result = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"--record {path}: {error}; expected the JSON that --json wrote.") from None
    if not isinstance(result, dict) or not result.get("measured") or "flops" not in result:
        raise UserError(f"--record {path}: found no measurement on a GPU; expected the JSON that --json wrote there.")
    if result["code"] != code_digest():
        raise UserError(
            f"--record {path}: found a run of other code; expected one of this checkout (digest {code_digest()[:12]})."
        )
    machine = f"{result['device']}, torch {result['torch']}, transformers {result['transformers']}, Python {result['python']}"
    return {
        "result": {**result, "plan": plan()},
        "date": result["date"],
        "machine": machine,
        "commit": records.this_commit(),
        "seconds": result["whole"],
    }


def arguments(words: list[str]) -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--shape", choices=SHAPES, default="7b", help="the model's sizes (default 7b)")
    parser.add_argument("--device", default="cuda", help="torch device (default cuda)")
    parser.add_argument("--micro-batch", type=int, default=24, help="rows computed at once in removal (default 24)")
    parser.add_argument("--checkpoint", action="store_true", help="compute activations again in the backward pass")
    parser.add_argument("--peak", type=float, help="the device's dense bfloat16 FLOP/s (default: by its name)")
    parser.add_argument("--json", type=Path, help="write the result to this file")
    return parser.parse_args(words)


def main(words: list[str]) -> int:
    """Run, print the table, write the JSON."""
    options = arguments(words)
    # Read when the first tensor reaches the GPU; torch before 2.9 knows the first name only.
    for name in ("PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ALLOC_CONF"):
        os.environ.setdefault(name, "expandable_segments:True")
    try:
        check(options)
        result = report(options.shape, options.device, options.micro_batch, options.checkpoint, options.peak)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print("\n".join([gpu_page.head(result), *gpu_page.table(result), *result["notes"]]))
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n")
    return 0


def check(options: argparse.Namespace) -> None:
    """Refuse what cannot run.

    Raises:
        UserError: there is no GPU, or no row to compute at once.
    """
    import torch

    if options.micro_batch < 1:
        raise UserError(f"--micro-batch is {options.micro_batch}; expected 1 or more.")
    if options.device.startswith("cuda") and not torch.cuda.is_available():
        raise UserError(f"--device is {options.device} but torch finds no GPU; expected one, or {' '.join(TRIED)}.")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
