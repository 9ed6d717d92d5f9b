"""The README's picture: ``python -m benchmarks.picture REPORT.html docs/report.png`` (needs a Chromium on the path).

It shows the top of a real report: ``make sanitize`` makes one at outputs/sanitize/report.html.
"""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

# A window in which the verdict and the table of before and after are seen whole.
WIDTH, HEIGHT = 1100, 980
BROWSERS = ("chromium", "chromium-browser", "google-chrome")


def main(report: str, picture: str) -> int:
    """Draw ``report`` into ``picture`` (PNG); return the exit code."""
    browser = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    if browser is None:
        print(f"error: no browser found; expected one of {', '.join(BROWSERS)} on the path", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as profile:
        flags = ("--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--disable-background-networking")
        subprocess.run(
            [
                browser,
                *flags,
                f"--user-data-dir={profile}",
                f"--window-size={WIDTH},{HEIGHT}",
                f"--screenshot={Path(picture).absolute()}",
                Path(report).absolute().as_uri(),
            ],
            check=True,
            capture_output=True,
            timeout=120,
        )
    return 0


if __name__ == "__main__":
    if len(sys.argv) != 3:
        print(__doc__, file=sys.stderr)
        sys.exit(2)
    sys.exit(main(*sys.argv[1:]))
