"""One pool of two workers for the whole session."""

from collections.abc import Iterator

import pytest

from benchmarks.pool import Pool


@pytest.fixture(scope="session")
def pool() -> Iterator[Pool]:
    """Two gloo workers; see :class:`benchmarks.pool.Pool`."""
    made = Pool()
    yield made
    made.close()
