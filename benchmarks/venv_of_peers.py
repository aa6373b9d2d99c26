"""The peers' own venv, made on demand under `data/`."""

import subprocess
import sys
from pathlib import Path

from plan import DATA, HERE

REQUIREMENTS = HERE / "peers-requirements.txt"


def peers_python() -> Path:
    """Return the venv's Python; the venv is made again when the pins have changed."""
    venv = DATA / "venv"
    done = venv / "installed"
    if not done.exists() or done.stat().st_mtime < REQUIREMENTS.stat().st_mtime:
        print("installing the peers (2 GB)", file=sys.stderr)
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(venv)], check=True)
        pip = [str(venv / "bin" / "pip"), "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, "--requirement", str(REQUIREMENTS)], check=True)
        done.touch()
    return venv / "bin" / "python"
