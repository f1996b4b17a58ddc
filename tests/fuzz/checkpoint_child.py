"""Reads checkpoints in a process of its own, with bounded memory; one line in, one line out."""

from __future__ import annotations

import hashlib
import json
import logging
import resource
import sys
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from tests import little_memory

# More than any file here needs, less than the hostile ones ask for.
MEMORY = 600 * 2**20
# The tiny model of the test; the foreign files say neither this nor the rank.
SHAPE: dict[str, Any] = {"channels": (8, 16, 24, 32), "depths": (1, 1, 1, 1)}


def digest(tensors: Mapping[str, Any]) -> str:
    """Return a number for names, dtypes, shapes and values, in the order of the names."""
    total = hashlib.sha256()
    for name in sorted(tensors):
        tensor = torch.as_tensor(tensors[name]).contiguous()
        total.update(repr((name, str(tensor.dtype), tuple(tensor.shape))).encode("utf-8", "backslashreplace"))
        total.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes() if tensor.numel() else b"")
    return total.hexdigest()


def read(path: Path, own: bool) -> dict[str, str]:
    """Open a file by the doors of the package; return digests of what came out, or the error."""
    from segnext import create_model
    from segnext.weights.containers import read_contents

    try:
        contents = read_contents(path)
        options = {} if own else {"name": "segnext_t", "rank": 4, **SHAPE}
        model = create_model(weights=path, **options)
    except Exception as error:
        return {"error": type(error).__name__, "kind": _kind(error), "message": str(error)}
    finite = all(bool(tensor.isfinite().all()) for tensor in model.state_dict().values())
    return {
        "contents": digest(contents.state_dict),
        "model": digest(model.state_dict()) if finite else "not finite",
    }


def _kind(error: Exception) -> str:
    return "expected" if isinstance(error, ValueError | OSError) else "other"


def main() -> None:
    """Answer until the input ends."""
    warnings.simplefilter("error")  # a warning would be a second line
    logging.getLogger("segnext").setLevel(logging.ERROR)  # reports on loading are wanted
    import segnext.create
    import segnext.weights.loading  # noqa: F401 - the memory is bounded after all imports

    torch.set_num_threads(1)
    print("ready", flush=True)
    bounded = False
    for line in sys.stdin:
        task = json.loads(line)
        clock, before = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        answer: dict[str, Any] = read(Path(task["path"]), task["own"])
        answer["seconds"] = time.process_time() - clock
        answer["memory"] = 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
        print(json.dumps(answer), flush=True)
        if not bounded:  # the first file is a good one, and loads what is imported late
            little_memory.leave(MEMORY)
            bounded = True


if __name__ == "__main__":
    main()
