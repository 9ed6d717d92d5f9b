"""One module per file format, each with ``cut(path, target_bytes)`` and ``read(block)``."""
