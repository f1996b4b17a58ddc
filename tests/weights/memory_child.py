"""Builds a model from a file in a process of its own, and says how much memory that took at most."""

from __future__ import annotations

import sys
from pathlib import Path

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def memory(name: str) -> int:
    """Return a line of the system's account of this process, in bytes."""
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith(f"{name}:"))
    return int(line.split()[1]) * 1024


def main(path: str) -> None:
    """Print the peak above what the process had before."""
    from segnext import create_model

    create_model(weights="camvid")  # imports what is needed
    CLEAR.write_text("5")  # forgets the peak so far
    before = memory("VmRSS")
    model = create_model(weights=path)
    print(memory("VmHWM") - before, sum(tensor.nbytes for tensor in model.state_dict().values()))


if __name__ == "__main__":
    main(sys.argv[1])
