"""Where the checkout lies, and its Python files."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def sources(folder: str) -> list[Path]:
    """Return the Python files of a folder of the checkout."""
    return sorted(path for path in (ROOT / folder).rglob("*.py") if "__pycache__" not in path.parts)
