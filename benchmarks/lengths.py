"""Lengths of question-and-answer rows in tokens: recorded quantiles, from which as many rows as wanted are drawn.

The figures are approximate: read off public descriptions of the sets (Alpaca, Dolly; AdvBench-like requests with a
refusal and an affirmative answer), for tokenizers of the Llama kind, with 20 tokens of chat template in each prompt.
They say how lengths spread, not what any one file holds; measure a file of yours with ``--data``.
"""

import math
import random
from itertools import pairwise

TEMPLATE = 20
AT = (0.0, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 1.0)
# Tokens at the quantiles AT.
CHATS = {
    "Alpaca-like": {
        "prompt": (6, 8, 10, 13, 17, 26, 40, 52, 90, 300),
        "answer": (1, 3, 5, 14, 48, 100, 170, 230, 330, 700),
    },
    "Dolly-like": {
        "prompt": (4, 7, 8, 11, 16, 60, 220, 330, 620, 1000),
        "answer": (1, 4, 6, 17, 44, 105, 200, 290, 580, 1000),
    },
}
REQUESTS = {
    "prompt": (8, 9, 10, 12, 15, 18, 22, 25, 30, 40),
    "safe": (8, 9, 10, 12, 20, 32, 48, 60, 90, 120),
    "unwanted": (9, 11, 12, 14, 16, 19, 22, 25, 30, 40),
}


def chats(kind: str, count: int, seed: int) -> list[tuple[int]]:
    """Return the lengths of ``count`` conversations: prompt and answer together, drawn independently."""
    draw, known = random.Random(f"{kind}/{seed}"), CHATS[kind]
    return [
        (TEMPLATE + quantile(known["prompt"], draw.random()) + quantile(known["answer"], draw.random()),) for _ in range(count)
    ]


def requests(count: int, seed: int) -> list[tuple[int, int, int]]:
    """Return the lengths of ``count`` requests: prompt, safe answer, unwanted answer, drawn independently."""
    draw = random.Random(f"requests/{seed}")
    prompt, safe, unwanted = REQUESTS.values()
    return [
        (TEMPLATE + quantile(prompt, draw.random()), quantile(safe, draw.random()), quantile(unwanted, draw.random()))
        for _ in range(count)
    ]


def quantile(values: tuple[int, ...], at: float) -> int:
    """Return the length at quantile ``at``; between two recorded ones its logarithm is linear."""
    for (low, shorter), (high, longer) in pairwise(zip(AT, values, strict=True)):
        if at <= high:
            share = (at - low) / (high - low)
            return round(math.exp((1 - share) * math.log(shorter) + share * math.log(longer)))
    return values[-1]
