"""The bytes of tensors over time, as the process's allocator holds them, whichever thread gave them back.

Every block of a page's size and more is mapped on its own, so that glibc counts the bytes; they are read after each
operation. The profiler would see inside operations too, but not what a communication thread frees.
"""

import ctypes
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

Span = Callable[[str], AbstractContextManager[None]]
MMAP_THRESHOLD, LEAST_BYTES = -3, 16 * 2**10
FIELDS = ("arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost")


class _Counts(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in FIELDS]


class Meter:
    """Within :meth:`watching`, ``peaks`` [name] becomes the most bytes held at once within any span of that name."""

    def __init__(self) -> None:
        """Nothing is known yet."""
        self.peaks: dict[str, int] = {}
        self._open: list[str] = []
        self._libc = ctypes.CDLL("libc.so.6")
        self._libc.mallinfo2.restype = _Counts
        self._before = 0

    @contextmanager
    def watching(self) -> Iterator[Span]:
        """Watch, and yield what names a span: ``with span("removal"): ...``. What was there before does not count."""
        import gc

        from torch.utils._python_dispatch import TorchDispatchMode

        meter = self

        class Reads(TorchDispatchMode):
            def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
                result = func(*args, **(kwargs or {}))
                meter._read()
                return result

        gc.collect()
        self._libc.mallopt(MMAP_THRESHOLD, LEAST_BYTES)
        self._before = self._held()
        with Reads():
            yield self._span

    @contextmanager
    def _span(self, name: str) -> Iterator[None]:
        self._open.append(name)
        self._read()
        try:
            yield
        finally:
            self._open.remove(name)

    def _read(self) -> None:
        held = self._held() - self._before
        for name in self._open:
            self.peaks[name] = max(self.peaks.get(name, 0), held)

    def _held(self) -> int:
        return int(self._libc.mallinfo2().hblkhd)
