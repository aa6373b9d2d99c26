"""DuckDB keeping the report current: at each refresh it reads the log again from its start.

`python duckdb_reread.py LOG OUT.csv SIZES.json` runs the query of `duckdb_one_shot.py` on the first
so many bytes of the log, for each size, in one process that stays, and prints the CPU seconds of
each as JSON. Its start, a first query, and the copying of the bytes are left out, in its favour.
"""

import json
import shutil
import sys
import time
from pathlib import Path

from duckdb_one_shot import main as report


def main(log: str, out: str, sizes_file: str) -> None:
    """Make the report of each beginning of a log."""
    sizes = json.loads(Path(sizes_file).read_text(encoding="utf-8"))
    grown = Path(log).with_suffix(".reread.log")
    costs, held = [], 0
    with Path(log).open("rb") as source, grown.open("wb", buffering=0) as copy:
        for size in sizes:
            while held < size:
                held += copy.write(source.read(min(size - held, shutil.COPY_BUFSIZE)))
            if not costs:
                report(str(grown), out)
            before = time.process_time()
            report(str(grown), out)
            costs.append(time.process_time() - before)
    grown.unlink()
    print(json.dumps(costs))


if __name__ == "__main__":
    main(*sys.argv[1:])
