"""How much a device holds, and how much of that tensors may take."""

from dataclasses import dataclass, replace

GIB = 2**30
# What a GPU's context and its libraries hold, and the share that an allocator loses to fragments.
CONTEXT, FRAGMENTS = 1.0 * GIB, 0.08
# A process's own code and buffers on a CPU; its allocator gives what is free back.
PROCESS, SPARE = 0.5 * GIB, 0.05


@dataclass(frozen=True)
class Device:
    """``memory`` in bytes; ``gpu``: computes in bfloat16, else in float32."""

    name: str
    memory: float
    gpu: bool

    @property
    def usable(self) -> float:
        """Bytes that tensors may take."""
        if self.gpu:
            return max(0.0, self.memory - CONTEXT) * (1 - FRAGMENTS)
        return max(0.0, self.memory - PROCESS) * (1 - SPARE)

    def beside(self, held: float) -> "Device":
        """Return what is left of it beside ``held`` bytes."""
        return replace(self, memory=max(0.0, self.memory - held))


# What their drivers report.
A100, H100, H200 = Device("A100-80", 79.2 * GIB, True), Device("H100-80", 79.2 * GIB, True), Device("H200", 139.8 * GIB, True)


def cpu(memory: float) -> Device:
    """Return a CPU worker's device, with the bytes that are its own."""
    return Device("CPU", memory, False)
