"""Measures what training waits for: `python -m bench.data_loading --data CAMVID`.

`segnext train` takes some steps of SegNeXt-T on 512 crops, in batches of 4, and its own log says how long it waited for
data, how many images it saw per second and how much memory it took. Then the same batches are made without training: by
threads, as `segnext train` makes them, and by processes of PyTorch's DataLoader, after a check that both make the same.
Threads share the interpreter's lock, and the last number is how much of the time a sample holds it: its inverse is the
number of threads that one process can keep busy. It writes a JSON under bench/results/<machine>/data_loading/.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from bench import machine
from bench.results import FOLDER
from segnext.data.batches import TrainingBatches
from segnext.data.config import load_data_config
from segnext.data.transforms import Augmentation

CROP, BATCH = 512, 4
STEPS, EVERY = 24, 4  # the first row is left out: the first steps build caches
WORKERS = (1, 2, 4)
DTYPES = ("float32", "bfloat16")  # of the trainings
BATCHES = 24  # of one measurement without training
ROUNDS = 5
SPIN_SECONDS = 2.0


def training(data: Path, dtype: str) -> dict[str, float]:
    """Run `segnext train` for some steps; return the medians of its log."""
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        command = [sys.executable, "-m", "segnext", "train", "camvid", "--root", str(data), "-o", str(run)]
        command += ["--crop", str(CROP), "--batch-size", str(BATCH), "--steps", str(STEPS), "--warmup", "1"]
        command += [
            "--dtype",
            dtype,
            "--log-every",
            str(EVERY),
            "--eval-every",
            "0",
            "--checkpoint-every",
            "0",
        ]
        subprocess.run([*command, "--threads", str(torch.get_num_threads())], check=True)
        rows = [json.loads(line) for line in (run / "results.jsonl").read_text().splitlines()]
    rows = [row for row in rows if "loss" in row][1:]
    names = ("images_per_second", "data_wait", "memory")
    found = {name: statistics.median(row[name] for row in rows) for name in names}
    return {**found, "step_seconds": BATCH / found["images_per_second"]}


class Steps(Dataset[tuple[Tensor, Tensor]]):
    """The batches of training as a data set of PyTorch, for workers that are processes."""

    def __init__(self, batches: TrainingBatches) -> None:
        self.batches = batches

    def __len__(self) -> int:
        return BATCHES

    def __getitem__(self, step: int) -> tuple[Tensor, Tensor]:
        batch = self.batches.batch(step)
        return batch.images, batch.labels


def of_threads(batches: TrainingBatches, workers: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield batches that threads make, as `segnext train` does."""
    for batch in batches.iterate(0, BATCHES, workers):
        yield batch.images, batch.labels


def of_processes(batches: TrainingBatches, workers: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the same batches by a DataLoader's processes, each of which makes whole batches."""
    yield from DataLoader(Steps(batches), batch_size=None, num_workers=workers, prefetch_factor=2)


MAKERS: dict[str, Callable[[TrainingBatches, int], Iterator[tuple[Tensor, Tensor]]]] = {
    "threads": of_threads,
    "processes": of_processes,
}


def expect_same(batches: TrainingBatches) -> None:
    """Assert that threads and processes make the same batches, bit for bit."""
    for mine, other in islice(zip(of_threads(batches, 2), of_processes(batches, 2), strict=True), 4):
        assert all(torch.equal(a, b) for a, b in zip(mine, other, strict=True)), "the batches differ"


def samples_per_second(batches: TrainingBatches) -> dict[str, dict[int, float]]:
    """Return the median speed of each way and number of workers, which take turns.

    The clock starts at the first batch, so that the start of processes does not count.
    """
    speeds: dict[str, dict[int, list[float]]] = {name: {count: [] for count in WORKERS} for name in MAKERS}
    for _ in range(ROUNDS):
        for name, make in MAKERS.items():
            for count in WORKERS:
                made = make(batches, count)
                next(made)
                start = time.perf_counter()
                left = sum(1 for _ in made)
                speeds[name][count].append(left * BATCH / (time.perf_counter() - start))
    return {name: {n: statistics.median(of) for n, of in found.items()} for name, found in speeds.items()}


def share_of_the_lock(batches: TrainingBatches) -> float:
    """Return how much of the time one thread that makes samples holds the interpreter's lock.

    Another thread counts in pure Python, for which it needs the lock: what it counts less than alone is that time.
    """
    interval = sys.getswitchinterval()
    # Else each turn of the other thread would cost the one that makes samples 5 ms.
    sys.setswitchinterval(1e-4)
    try:
        shares = []
        for _ in range(ROUNDS):
            alone = _count(SPIN_SECONDS)
            stop = threading.Event()
            maker = threading.Thread(target=_make_until, args=(batches, stop))
            maker.start()
            shares.append(1 - _count(SPIN_SECONDS) / alone)
            stop.set()
            maker.join()
        return statistics.median(shares)
    finally:
        sys.setswitchinterval(interval)


def _make_until(batches: TrainingBatches, stop: threading.Event) -> None:
    step = 0
    while not stop.is_set():
        batches.batch(step)
        step += 1


def _count(seconds: float) -> int:
    count, end = 0, time.perf_counter() + seconds
    while time.perf_counter() < end:
        count += 1
    return count


def measure(data: Path) -> dict[str, Any]:
    """Return all numbers."""
    config = load_data_config("camvid", data)
    augmentation = Augmentation(CROP, ignore_index=config.ignore_index)
    batches = TrainingBatches(config.open("train"), augmentation, BATCH, seed=0)
    expect_same(batches)
    return {
        "samples_per_second": samples_per_second(batches),
        "share_of_the_lock": share_of_the_lock(batches),
        "training": {dtype: training(data, dtype) for dtype in DTYPES},
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of `python -m bench.data_loading`."""
    parser = argparse.ArgumentParser(prog="python -m bench.data_loading", description=__doc__)
    parser.add_argument(
        "--data", type=Path, required=True, help="folder of CamVid: images/train, labels/train"
    )
    parser.add_argument("--results", type=Path, default=FOLDER, help="folder of the machines' results")
    options = parser.parse_args(arguments)
    host = machine.describe()
    found = measure(options.data)
    folder = options.results / host["slug"] / "data_loading"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{host['date'][:10]}-{host['commit'].rstrip('+')}.json"
    settings = {"crop": CROP, "batch": BATCH, "steps": STEPS, "batches": BATCHES, "rounds": ROUNDS}
    path.write_text(json.dumps({"machine": host, "settings": settings, **found}, indent=1) + "\n")
    print(json.dumps(found, indent=1))
    print(f"wrote {path}")


if __name__ == "__main__":
    main()
