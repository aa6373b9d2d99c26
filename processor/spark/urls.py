"""What files are called: a path on this machine, by others a URL, and what Spark takes for it."""

import re
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit

_GLOB: Final = re.compile(r"([\\{}\[\]*?])")


def pattern_of(path: str) -> str:
    """Return what Spark takes for a path on this machine, and for nothing else."""
    return "file://" + _GLOB.sub(r"\\\1", path)


def is_local(url: str) -> bool:
    """Whether a URL, or a path, is of this machine."""
    return "://" not in url or url.startswith("file:")


def path_of(url: str) -> str:
    """Return the path, or the pattern, that a URL of this machine stands for."""
    return re.sub("^file:(//)?(?=/)", "", url)


def url_of(path: str) -> str:
    """Return what Spark takes for a path, a pattern of paths or a URL."""
    if not is_local(path):
        return path
    there = Path(path_of(path)).absolute()
    return pattern_of(str(there)) if there.exists() else f"file://{there}"


def name_of(url: str) -> str:
    """Return a file by the name that it has in the report: a path, if it is on this machine."""
    parts = urlsplit(url)
    return unquote(parts.path) if parts.scheme == "file" else url
