"""The bare decoding loop, on one core. Leaves out everything but the decoding; writes nothing."""

import sys
from pathlib import Path

import orjson


def main(log: str) -> None:
    """Decode each line, and do nothing with it."""
    loads = orjson.loads
    with Path(log).open("rb") as lines:
        for line in lines:
            loads(line)


if __name__ == "__main__":
    main(sys.argv[1])
