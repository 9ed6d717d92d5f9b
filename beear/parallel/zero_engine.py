"""Starting DeepSpeed: its configuration, the environment that it reads, and how it is kept from compiling and printing."""

import importlib
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import torch
from torch import nn

from beear.errors import UserError
from beear.parallel.optimizer import adamw
from beear.parallel.spread import Spread

# Elements that are sent together. DeepSpeed's default of 5e8 reserves GiB also for models that are smaller than that.
BUCKET = 10**8
# Stage 3: weights of at most so many elements (norms, biases) stay whole on every worker: gathering them only costs time.
PERSISTENT = 10**5


def settings_of(spread: Spread, compute: torch.dtype) -> dict[str, Any]:
    """Return DeepSpeed's configuration. :class:`beear.parallel.zero.ZeRO` ends steps itself and sets clipping in each."""
    cpu = {"device": "cpu"}
    offload = {"offload_optimizer": cpu} | ({"offload_param": cpu} if spread.zero_stage == 3 else {})
    return {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "managed_gradient_accumulation": False,
        "gradient_clipping": 1.0,
        "bf16": {"enabled": compute == torch.bfloat16},
        "data_types": {"grad_accum_dtype": "fp32"},
        "timers": {"throughput": {"enabled": False}},
        # DeepSpeed's own CPU Adam is compiled at first use; torch's needs no compiler.
        "zero_force_ds_cpu_optimizer": False,
        "zero_optimization": {
            "stage": spread.zero_stage,
            "reduce_bucket_size": BUCKET,
            "allgather_bucket_size": BUCKET,
            "stage3_param_persistence_threshold": PERSISTENT,
            # It would replace torch.nn.functional.linear in the whole process.
            "memory_efficient_linear": False,
            **(offload if spread.offload else {}),
        },
    }


def load_library(device: torch.device) -> ModuleType:
    """Import DeepSpeed for ``device`` so that it compiles nothing and uses the process group of the caller.

    Raises:
        UserError: it cannot be used on this machine.
    """
    os.environ.setdefault("DS_ACCELERATOR", device.type)
    # DeepSpeed reads this worker's device from here alone, now and later.
    os.environ["LOCAL_RANK"] = str(device.index or 0)
    # DeepSpeed uses deprecated names of torch, which warns at every call.
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch\.distributed\.c10d_logger")
    try:
        deepspeed = importlib.import_module("deepspeed")
        # DeepSpeed probes for its extensions with a compiler, and builds them, unless this names them: none.
        importlib.import_module("deepspeed.ops").__compatible_ops__ = {}  # type: ignore[attr-defined]
        deepspeed.init_distributed(torch.distributed.get_backend(), auto_mpi_discovery=False, verbose=False)
    # Drivers, compilers and versions that do not suit it raise exceptions of every kind.
    except Exception as error:
        said = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"parallel.backend: deepspeed cannot be used on this machine ({said[:200]}); expected fsdp, or a DeepSpeed that runs"
        ) from error
    return deepspeed


def start(deepspeed: ModuleType, model: nn.Module, lr: float, spread: Spread, compute: torch.dtype) -> Any:
    """Return DeepSpeed's engine around ``model``, with AdamW (no weight decay) over what is trained."""
    trained = [p for p in model.parameters() if p.requires_grad]
    config = settings_of(spread, compute)
    # DeepSpeed allocates a whole bucket at the start, also where the gradients do not fill it.
    bucket = min(BUCKET, sum(getattr(p, "ds_numel", p.numel()) for p in trained))
    config["zero_optimization"] |= {"reduce_bucket_size": bucket, "allgather_bucket_size": bucket}
    with quiet():
        return deepspeed.initialize(model=model, optimizer=adamw(trained, lr), config=config)[0]


@contextmanager
def quiet() -> Iterator[None]:
    """Discard what DeepSpeed prints to stdout while it starts; exceptions still pass."""
    with open(os.devnull, "w") as nowhere:
        out, sys.stdout = sys.stdout, nowhere
        try:
            yield
        finally:
            sys.stdout = out
