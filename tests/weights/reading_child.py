"""Reads files in a process of its own, and says of each what came out, how long it computed and how much memory."""

from __future__ import annotations

import json
import resource
import sys
import time
import warnings
from pathlib import Path


def peak_bytes() -> int:
    """Return the most memory that this process has had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main(paths: list[str]) -> None:
    """Print one JSON line per file."""
    from segnext.weights.containers import read_contents

    warnings.simplefilter("error")  # a warning would be a second line
    for path in paths:
        before, clock = peak_bytes(), time.process_time()
        try:
            result = f"{len(read_contents(Path(path)).state_dict)} tensors"
        except Exception as error:
            result = f"{type(error).__name__}: {error}"
        print(json.dumps([result, time.process_time() - clock, peak_bytes() - before]), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
