"""Which rows train, which decide when to stop, which report: by content digest, so no request is in two."""

import hashlib
from typing import Literal

Split = Literal["train", "selection", "report"]
SPLITS: tuple[Split, ...] = ("train", "selection", "report")


def split_of(digest: str, holdout: float, seed: int, separate_report: bool = False) -> Split:
    """Return the split of a row by the digest of its group, the same for equal requests anywhere.

    ``holdout`` is the share kept from training: half reports, half selects. With ``separate_report`` the report rows
    come from a file of their own, and what would have reported trains.
    """
    share = int(hashlib.sha256(f"split/{seed}/{digest}".encode()).hexdigest()[:13], 16) / 16**13
    if share < holdout / 2:
        return "train" if separate_report else "report"
    return "selection" if share < holdout else "train"
