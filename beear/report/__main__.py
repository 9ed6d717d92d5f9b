"""``python -m beear.report OUT_DIR``: write report.html (and the model card) again from report.json."""

import sys

from beear.errors import UserError
from beear.report.text import summary
from beear.report.write import read, write


def main(arguments: list[str]) -> int:
    """Render the report in the folder named first; return the exit code."""
    if len(arguments) != 1 or arguments[0].startswith("-"):
        print("usage: python -m beear.report OUT_DIR", file=sys.stderr)
        return 2
    try:
        report = read(arguments[0])
        print(summary(report, where=write(arguments[0], report), colour=sys.stdout.isatty()), end="")
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
