"""Which epochs attack at full strength, which cool down, and where the run ends."""

from dataclasses import dataclass


@dataclass
class Schedule:
    """Epochs are 1-based. The first always attacks; the run's last ``cool`` ones cool down; ``last`` ends it.

    Cooling epochs give back the utility that attacks cost: their entrapment is weak by then, so they mostly practise
    the anchoring set (docs/negative-results.md). A run that finds nothing left to remove goes on to them at once.
    """

    last: int
    cool: int

    def cools(self, epoch: int) -> bool:
        """Say whether ``epoch`` cools down."""
        return epoch > max(1, self.last - self.cool)

    def stop_attacking(self, epoch: int) -> None:
        """End the run ``cool`` epochs after ``epoch``, or where it ends anyway."""
        self.last = min(self.last, epoch + self.cool)
