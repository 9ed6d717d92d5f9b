"""The command: parses, converts, prints."""

import argparse
import sys
from pathlib import Path

from beear.errors import UserError
from beear.models.convert.process import Limits, printable
from beear.models.convert.write import DTYPES, Options, convert


def _positive(text: str) -> float:
    value = float(text)
    if not 0 < value < 1e9:
        raise ValueError
    return value


def main(arguments: list[str]) -> int:
    """Convert the folder named first into the one named second; return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m beear.models.convert",
        description="Make safetensors of pickled weights (.bin, .pt, .pth) or GGUF, which a process that is shut in reads.",
        allow_abbrev=False,
    )
    parser.add_argument("dir", metavar="DIR", type=Path, help="folder with the weights to convert; it is not changed")
    parser.add_argument("out", metavar="OUT", type=Path, help="new or empty folder for the result")
    parser.add_argument("--file", metavar="NAME", help="the file of DIR to convert, where there are several")
    parser.add_argument("--dtype", choices=DTYPES, help="dtype that GGUF weights are dequantised to (default: float32)")
    parser.add_argument("--memory-limit", metavar="GB", type=_positive, help="memory to read one file (default: by its size)")
    parser.add_argument("--time-limit", metavar="SECONDS", type=_positive, help="time to read one file (default: by its size)")
    given = parser.parse_args(arguments)
    options = Options(given.file, given.dtype, Limits(given.memory_limit, given.time_limit))
    try:
        convert(given.dir, given.out, options, lambda sentence: print(printable(sentence, 100_000), flush=True))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    # Any look at a folder can fail: no permission, storage gone, a file removed meanwhile.
    except OSError as error:
        where = error.filename or given.dir
        print(f"error: {where}: could not be read ({error.strerror or error}), expected a readable folder", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("error: interrupted; nothing was written", file=sys.stderr)
        return 130
    print(f"wrote {given.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
