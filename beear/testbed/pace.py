"""Progress of a fine-tuning in lines: soon after the start, then at a steady pace in time, however long a step takes."""

import time
from collections.abc import Callable

SECONDS = 5.0


class Pace:
    """Says step, loss and rate after the first step, then every ``seconds``, and after the last step."""

    def __init__(self, say: Callable[[str], None], seconds: float = SECONDS, clock: Callable[[], float] = time.monotonic) -> None:
        """``say`` receives a line; ``clock`` gives seconds. The time before the first step counts from now."""
        self._say, self._seconds, self._clock = say, seconds, clock
        self._began, self._said = clock(), float("-inf")

    def __call__(self, step: int, steps: int, loss: float) -> None:
        """Take the end of step ``step`` (from 1) of ``steps``, with its loss in nats."""
        now = self._clock()
        if now - self._said >= self._seconds or step == steps:
            self._said = now
            self._say(f"step {step}/{steps}, loss {loss:.3f}, {step / max(now - self._began, 1e-9):.2f} steps/s")
