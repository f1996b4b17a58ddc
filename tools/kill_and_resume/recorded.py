"""`segnext train` that also writes down each step's exact loss, of which results.csv keeps five decimals.

`python -m tools.kill_and_resume.recorded FILE train camvid ...` appends one line per step to FILE.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import NamedTuple

from segnext.atomic import whole_lines


class Step(NamedTuple):
    """One step: its number, its exact loss, and the seconds that it took."""

    number: int
    loss: float
    seconds: float


def read(path: Path) -> list[Step]:
    """Return the steps that were written down so far."""
    words = [line.split() for line in whole_lines(path)] if path.exists() else []
    return [Step(int(number), float.fromhex(loss), float(seconds)) for number, loss, seconds in words]


def main() -> None:
    import segnext.training.run as run
    from segnext.__main__ import main as segnext

    path = sys.argv[1]

    class RecordingLog(run.RunLog):
        def training(
            self, step: int, loss: float, learning_rate: float, images: int, seconds: float, waited: float
        ) -> None:
            super().training(step, loss, learning_rate, images, seconds, waited)
            # In one call to the system and without a buffer: a kill leaves the line out or leaves it whole.
            file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
            os.write(file, f"{step} {loss.hex()} {seconds:.4f}\n".encode())
            os.close(file)

    run.RunLog = RecordingLog  # type: ignore[misc]
    sys.argv[:] = ["segnext", *sys.argv[2:]]
    segnext()


if __name__ == "__main__":
    main()
