"""Measures `segnext serve` beside the library: `python -m bench.serve`.

Three parts. One request at a time: the service and `Predictor` take turns on the same file. Many requests at once:
their latencies, the answers counted, the service's memory, and the images per second beside those of `Predictor` in a
loop. A minute of faults mixed into good requests. It writes a JSON under bench/results/<machine>/serve/; `make readme`
makes the tables of docs/serving.md of it.
"""

from __future__ import annotations

import argparse
import io
import json
import shutil
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import torch
from PIL import Image

from bench import machine, results, roofline
from bench.results import OURS, Row, Timing
from bench.serve import tables
from bench.serve.faults import NO_ANSWER
from bench.serve.process import Served, command, run_client, serving
from segnext import Predictor
from segnext.measure.timing import interleaved, turn
from segnext.weights.catalogue import locate

SIDE = 512
CONCURRENCY = 200
BATCH = 8  # images that run together in a second service: what it would give on this machine
ROUNDS = 3  # of the load, each beside as many images in the library
SECONDS = 30.0  # of turns, one request at a time
MINUTE = 60.0
FAULT_LIMITS = ("--timeout", 5, "--queue", 32)  # small enough that a minute passes them often


def overhead(served: Served, predictor: Predictor, photograph: Path, seconds: float) -> Row:
    """Return the times of one request, and of the library on the same file; both end with a PNG in memory.

    Raises:
        ValueError: the masks differ.
    """
    content = photograph.read_bytes()
    with httpx.Client(timeout=60, headers={"content-type": "image/jpeg"}) as client:

        def ours() -> bytes:
            answer = client.post(f"{served.url}/v1/segment?output=mask", content=content)
            return answer.raise_for_status().content

        def library() -> bytes:
            return bytes(predictor(photograph).mask_png())

        masks = [np.array(Image.open(io.BytesIO(one()))) for one in (ours, library)]
        if not np.array_equal(*masks):
            raise ValueError("serve: the masks must be equal, got others from the service")
        turns = {OURS: turn(ours), tables.LIBRARY: turn(library)}
        times = {name: Timing.of(each) for name, each in interleaved(turns, seconds).items()}
    return Row(tables.OVERHEAD, f"T 1x{SIDE}x{SIDE}", times)


def load(
    served: Served, predictor: Predictor, photograph: Path, concurrency: int, rounds: int, batch: int
) -> Row:
    """Return what so many requests at once get, and seconds per image beside the library's; `batch` is for the name."""
    url = f"{served.url}/v1/segment?output=mask"
    run_client("bench.serve.load", url, photograph, "--requests", 8, "--concurrency", 2)
    served.forget_peak()
    before = served.memory()["now"]
    latencies: list[float] = []
    statuses: dict[str, int] = {}
    per_image: dict[str, list[float]] = {OURS: [], tables.LIBRARY: []}
    for _ in range(rounds):
        options = ("--requests", concurrency, "--concurrency", concurrency)
        found = json.loads(run_client("bench.serve.load", url, photograph, *options))
        latencies += found["seconds"]
        per_image[OURS].append(found["whole"] / concurrency)
        for status, count in found["statuses"].items():
            statuses[status] = statuses.get(status, 0) + count
        start = time.perf_counter()
        for _ in range(concurrency):
            predictor(photograph).mask_png()
        per_image[tables.LIBRARY].append((time.perf_counter() - start) / concurrency)
    notes = {
        "latency": _percentiles(latencies),
        "statuses": statuses,
        "memory": {"before": before, "peak": served.memory()["peak"], "after": served.memory()["now"]},
    }
    times = {name: Timing.of(each) for name, each in per_image.items()}
    together = "one by one" if batch == 1 else f"up to {batch} together"
    return Row(tables.LOAD, f"{rounds} times {concurrency}, {together}", times, notes=notes)


def faults(served: Served, weights: Path, photograph: Path, seconds: float) -> Row:
    """Return what a time of faults among good requests did; the service must be alive after it."""
    run_client(
        "bench.serve.load", f"{served.url}/v1/segment", photograph, "--requests", 8, "--concurrency", 2
    )
    served.forget_peak()
    before = served.memory()["now"]
    weights.unlink()
    second = subprocess.Popen(command("--port", served.port), stderr=subprocess.DEVNULL)
    found = json.loads(run_client("bench.serve.faults", served.port, photograph, "--seconds", seconds))
    answers: dict[str, dict[str, int]] = found["answers"]
    httpx.get(f"{served.url}/readyz").raise_for_status()
    counts = [count for each in answers.values() for count in each.values()]
    notes: dict[str, Any] = {
        "seconds": seconds,
        "answers": dict(sorted(answers.items())),
        "requests": sum(counts),
        "unanswered": sum(each.get(NO_ANSWER, 0) for each in answers.values()),
        "latency": _percentiles(found["good_seconds"]),
        "second service": second.wait(60),
        "memory": {"before": before, "peak": served.memory()["peak"], "after": served.memory()["now"]},
    }
    return Row(tables.FAULTS, f"{seconds:g} s", {}, notes=notes)


def _percentiles(seconds: Sequence[float]) -> dict[str, float]:
    return {f"p{share}": float(np.percentile(seconds, share)) for share in (50, 95, 99)}


def measure(folder: Path, seconds: float, concurrency: int, rounds: int, minute: float) -> list[Row]:
    """Return the rows of all parts; `folder` gets the files that they use."""
    photograph, weights = folder / "photograph.jpg", folder / "model.safetensors"
    street = Image.open(machine.ROOT / "docs" / "street.jpg").convert("RGB")
    street.resize((SIDE, SIDE)).save(photograph, quality=92)
    shutil.copyfile(locate("camvid"), weights)
    threads = torch.get_num_threads()
    predictor = Predictor("camvid", device="cpu")
    with serving(threads) as served:
        rows = [
            overhead(served, predictor, photograph, seconds),
            load(served, predictor, photograph, concurrency, rounds, 1),
        ]
    with serving(threads, "--max-batch", BATCH) as served:
        rows.append(load(served, predictor, photograph, concurrency, rounds, BATCH))
    with serving(threads, "--weights", weights, *FAULT_LIMITS) as served:
        return [*rows, faults(served, weights, photograph, minute)]


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of `python -m bench.serve`."""
    parser = argparse.ArgumentParser(prog="python -m bench.serve", description=__doc__)
    parser.add_argument("--seconds", type=float, default=SECONDS, help="of turns (default: %(default)s)")
    parser.add_argument(
        "--concurrency", type=int, default=CONCURRENCY, help="requests (default: %(default)s)"
    )
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="of the load (default: %(default)s)")
    parser.add_argument(
        "--minute", type=float, default=MINUTE, help="seconds of faults (default: %(default)s)"
    )
    parser.add_argument(
        "--results", type=Path, default=results.FOLDER, help="folder of the machines' results"
    )
    options = parser.parse_args(arguments)
    if options.rounds < 2:
        parser.error(f"--rounds must be at least 2, got {options.rounds}")
    host, ceilings = machine.describe(), roofline.measure()
    with tempfile.TemporaryDirectory() as folder:
        rows = measure(Path(folder), options.seconds, options.concurrency, options.rounds, options.minute)
    run = results.Results(host, ceilings, rows, {})
    path = results.write(run, options.results, "serve")
    print(f"{tables.tables(run)}\n\nstored in {path}")


if __name__ == "__main__":
    main()
