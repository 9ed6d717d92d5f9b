"""The training batches streamed by Ray Data: the same rows as :mod:`beear.data.local` makes in one process."""
