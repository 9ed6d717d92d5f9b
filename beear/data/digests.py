"""Digests of data files: of all bytes where that is quick, else of the size and evenly spaced samples."""

import hashlib

from beear.data import storage

WHOLE_BYTES = 64 << 20
SAMPLES = 64
SAMPLE_BYTES = 64 << 10


def file_digest(path: str) -> str:
    """Return ``sha256:HEX``, or ``sampled-sha256:HEX`` (size, start, end and samples between) for large files."""
    total = storage.size(path)
    seen = hashlib.sha256(str(total).encode()) if total > WHOLE_BYTES else hashlib.sha256()
    with storage.open_binary(path) as file:
        if total <= WHOLE_BYTES:
            while chunk := file.read(1 << 20):
                seen.update(chunk)
            return f"sha256:{seen.hexdigest()}"
        for index in range(SAMPLES):
            file.seek((total - SAMPLE_BYTES) * index // (SAMPLES - 1))
            seen.update(file.read(SAMPLE_BYTES))
    return f"sampled-sha256:{seen.hexdigest()}"
