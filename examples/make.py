"""Make the example reports: generate a small log, fold it, and write its report in each format.

Usage: python examples/make.py [FOLDER]
"""

import subprocess
import sys
import tempfile
from pathlib import Path


def main() -> None:
    """Write report.csv, .json, .md and .html into a folder, by default this one."""
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parent).resolve()

    def processor(*arguments: str) -> None:
        subprocess.run([sys.executable, "-m", "processor", *arguments], check=True, cwd=work)

    with tempfile.TemporaryDirectory() as work:
        processor("generate", "--events", "1500", "--hours", "3", "--customers", "4", "--seed", "1",
                  "--duplicates", "0.01", "--malformed", "0.01", "--output", "app.log")  # fmt: skip
        processor("run", "--once", "app.log")
        for name in ("csv", "json", "markdown", "html"):
            ending = name.replace("markdown", "md")
            processor("report", "--format", name, "--output", str(folder / f"report.{ending}"))


if __name__ == "__main__":
    main()
