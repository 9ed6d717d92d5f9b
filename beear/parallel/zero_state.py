"""The trained weights and Adam's state under ZeRO, in files that any number of workers can read.

There is one file per weight. Workers take turns in writing them, so that none ever holds more than one whole weight.
"""

import json
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from beear.files import share
from beear.parallel.optimizer import with_state
from beear.parallel.training_state import check_writer

INDEX = "zero.json"
MASTER, MOMENTS = "weight", ("exp_avg", "exp_avg_sq")


class Masters:
    """The float32 weights and their Adam state, which DeepSpeed partitions over the workers."""

    def __init__(self, deepspeed: ModuleType, engine: Any, stage: int, trained: dict[str, nn.Parameter]) -> None:
        """Read and write the weights ``trained``, by name, that ``engine`` optimises under ZeRO ``stage``."""
        self.utils, self.optimizer, self.stage, self.trained = deepspeed.utils, engine.optimizer, stage, trained

    @property
    def steps(self) -> int:
        """Steps taken."""
        state = self.optimizer.optimizer.state
        return int(next((float(state[flat]["step"]) for flat in self._flat() if flat in state), 0.0))

    def value(self, parameter: nn.Parameter, key: str = MASTER) -> Tensor:
        """Return a whole weight or moment; every worker calls it."""
        if key == MASTER:
            return self.utils.safe_get_full_fp32_param(parameter)
        return self.utils.safe_get_full_optimizer_state(parameter, key)

    def put(self, parameter: nn.Parameter, value: Tensor, key: str = MASTER) -> None:
        """Set this worker's part of a weight or moment from the whole ``value``. Call :meth:`spread` after the last one.

        Under stage 3 no weight may be gathered meanwhile.
        """
        if self.stage < 3:
            if key == MASTER:
                self.utils.safe_set_full_fp32_param(parameter, value)
            else:
                self.utils.safe_set_full_optimizer_state(parameter, value, key)
            return
        part = own_part(value, parameter)
        if key != MASTER:
            self.utils.safe_set_local_optimizer_state(parameter, part, key)
            return
        parameter.ds_tensor.data.copy_(part)  # type: ignore[attr-defined]
        self.utils.safe_set_local_fp32_param(parameter, part)

    def spread(self) -> None:
        """Copy the masters to the weights that products are computed with; every worker calls it."""
        if self.stage < 3:
            self.optimizer.update_lp_params()

    def make_moments(self, steps: int) -> None:
        """Make empty moments for Adam, with the step count of ``steps`` steps."""
        adam = self.optimizer.optimizer
        with_state(adam, self._flat())
        for flat in self._flat():
            adam.state[flat]["step"].fill_(steps)
        if self.stage < 3:
            self.optimizer._hp_optimizer_states_linked = False
            self.optimizer._lazy_init_hp_params_optimizer_state()

    def _flat(self) -> list[nn.Parameter]:
        """Return the flat tensors that Adam steps on: this worker's parts of all masters. Each stage has its own name."""
        names = ("fp32_partitioned_groups_flat", "single_partition_of_fp32_groups", "fp32_groups_flat_partition")
        return next(list(getattr(self.optimizer, name)) for name in names if hasattr(self.optimizer, name))


def own_part(value: Tensor, parameter: Any) -> Tensor:
    """Return what this worker holds of ``value`` under stage 3: its share of the elements, the last ones padded."""
    size = parameter.ds_tensor.numel()
    flat = value.flatten()
    part = flat[size * parameter.ds_zero_partition_rank :][:size]
    return torch.nn.functional.pad(part, (0, size - part.numel()))


def save(masters: Masters, folder: Path, rank: int, world: int) -> None:
    """Write every trained weight with its moments; each worker writes every ``world``-th of them."""
    steps = masters.steps
    keys = (MASTER, *MOMENTS) if steps else (MASTER,)
    for number, parameter in enumerate(masters.trained.values()):
        whole: dict[str, Tensor] = {}
        for key in keys:
            value = masters.value(parameter, key)
            if number % world == rank:
                whole[key] = value.detach().cpu().contiguous()
        if whole:
            save_file(whole, folder / file_of(number))
            share(folder / file_of(number))
    if rank == 0:
        (folder / INDEX).write_text(json.dumps({"steps": steps, "weights": list(masters.trained)}), encoding="utf-8")


def load(masters: Masters, folder: Path) -> None:
    """Read what :func:`save` wrote, also by another number of workers.

    Raises:
        UserError: another backend wrote the folder.
    """
    check_writer(folder, INDEX)
    index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
    if index["steps"]:
        masters.make_moments(index["steps"])
    for number, name in enumerate(index["weights"]):
        with safe_open(folder / file_of(number), framework="pt") as file:
            for key in file.keys():  # noqa: SIM118  # It cannot be iterated over.
                masters.put(masters.trained[name], file.get_tensor(key), key)
    masters.spread()


def complete(folder: Path) -> bool:
    """Say whether this backend wrote ``folder`` and every file that its index names is there, in full length."""
    try:
        weights = json.loads((folder / INDEX).read_text(encoding="utf-8"))["weights"]
        for number in range(len(weights)):
            with safe_open(folder / file_of(number), framework="pt"):
                # Opening a file that was cut off fails.
                pass
    except (OSError, ValueError, KeyError, SafetensorError):
        return False
    return True


def file_of(number: int) -> str:
    """Return the name of the file of weight ``number``."""
    return f"zero-{number:05d}.safetensors"
