"""pfl-research's own environment: `python -m benchmarks.envs` makes `.venv-pfl` beside `.venv`.

pfl 0.6 and Flower exclude each other (dp-accounting below 0.6 against 0.6 and up). The new environment holds pfl and
what differs; all else (torch, numpy, scipy) it takes from this environment, so that both sides run on the same build.
"""

from __future__ import annotations

import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

__all__ = ["PINS", "pfl_python"]

_HERE = Path(__file__).resolve().parent
_PLACE = _HERE.parent / ".venv-pfl"
PINS = _HERE / "pfl-requirements.txt"


def pfl_python() -> Path:
    """Return the interpreter of pfl's environment, after making the environment if it is missing or out of date."""
    python, stamp = _PLACE / "bin" / "python", _PLACE / "installed"
    shared = [path for path in sys.path if Path(path).name == "site-packages"]
    wanted = f"{sys.version}\n{shared}\n{PINS.read_text(encoding='utf-8')}"
    if python.exists() and stamp.exists() and stamp.read_text(encoding="utf-8") == wanted:
        return python
    print("making pfl's environment", flush=True)
    venv.create(_PLACE, clear=True, with_pip=False)
    base = {"base": str(_PLACE), "platbase": str(_PLACE)}
    # A path file names the shared packages behind the environment's own, which therefore win.
    (Path(sysconfig.get_path("purelib", vars=base)) / "shared.pth").write_text(
        "\n".join(shared) + "\n", encoding="utf-8"
    )
    subprocess.run(
        [
            *(sys.executable, "-m", "pip", "--python", str(python), "install", "-q", "--disable-pip-version-check"),
            # Without --no-deps pip would move torch and numpy to other versions than ours.
            *("--no-deps", "--ignore-installed", "-r", str(PINS)),
        ],
        check=True,
    )
    stamp.write_text(wanted, encoding="utf-8")
    return python


if __name__ == "__main__":
    print(pfl_python())
