"""The exact bytes of tensors over time, as the CPU allocator sees them: temporaries inside kernels included."""

import bisect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

Span = Callable[[str], Any]


class Meter:
    """Within :meth:`watching`, every allocation counts; :meth:`peaks` says how high they stood in each named span."""

    def __init__(self) -> None:
        """Nothing is known yet."""
        self._events: list[Any] = []

    @contextmanager
    def watching(self) -> Iterator[Span]:
        """Watch, and yield what names a span: ``with span("removal"): ...``. Tensors made before are not counted."""
        import gc

        from torch.profiler import ProfilerActivity, profile, record_function

        gc.collect()
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True) as profiler:
            yield record_function
        self._events = list(profiler.profiler.kineto_results.events())  # type: ignore[union-attr]

    def peaks(self, *names: str) -> dict[str, int]:
        """Return the most bytes that were alive at once within any span of each name."""
        times, totals = self._course()
        found = dict.fromkeys(names, 0)
        for event in self._events:
            if event.name() in found:
                first, last = (bisect.bisect(times, when) for when in (event.start_ns(), event.end_ns()))
                found[event.name()] = max(found[event.name()], *totals[max(first - 1, 0) : last])
        return found

    def _course(self) -> tuple[list[int], list[int]]:
        changes = sorted((event.start_ns(), event.nbytes()) for event in self._events if event.name() == "[memory]")
        totals, total = [], 0
        for _, change in changes:
            total += change
            totals.append(total)
        return [when for when, _ in changes], totals
