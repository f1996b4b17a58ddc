"""Measures the C++ runtime beside Python's deployed model: `python -m bench.cpp_runtime`, after docs/cpp.md's build.

Both take the same 8-bit image to a mask: normalisation, network, argmax. They take turns, the program of examples/cpp
as a process of its own, and their masks are equal or there is no time. A second number is the time from the start of a
process to its mask, where Python also imports torch. It writes a JSON under bench/results/<machine>/cpp_runtime/;
`make readme` makes the table of docs/cpp.md of it.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from bench import machine, report, results, roofline
from bench.results import OURS, Row, Timing
from segnext import DeployedSegNeXt, create_model, deploy
from segnext.data.images import read_image
from segnext.data.preprocessing import normalise
from segnext.measure.timing import interleaved, turn

PROGRAM = machine.ROOT / "build" / "cpp" / "segment"
SIDE = 512
SECONDS = 30.0  # per dtype
CALLS = 3  # of the program per turn; the last one counts
DTYPES = (torch.float32, torch.bfloat16)
TABLE, PYTHON = "8-bit image to mask, ms", "Python"
CPP_PROCESS, PYTHON_PROCESS = "C++, with its start", "Python, with its start"
IN_PYTHON = """
import sys, numpy as np
from PIL import Image
from segnext import DeployedSegNeXt
from segnext.data.preprocessing import normalise
model = DeployedSegNeXt.load(sys.argv[1])
mask = model.predict(normalise(np.array(Image.open(sys.argv[2]))))[0].numpy()
Image.fromarray(mask).save(sys.argv[3])
"""


def measure(program: Path, dtype: torch.dtype, seconds: float, side: int = SIDE) -> Row:
    """Return the times of both, of a call and from the start of a process.

    Raises:
        ValueError: the masks differ.
    """
    fast = deploy(create_model(weights="camvid").eval(), dtype)
    pixels = np.asarray(
        Image.fromarray(read_image(machine.ROOT / "docs" / "street.jpg")).resize((side, side))
    )
    with tempfile.TemporaryDirectory() as folder:
        model, photo, mask = (Path(folder) / name for name in ("model.safetensors", "photo.ppm", "mask.pgm"))
        fast.save(model)
        Image.fromarray(pixels).save(photo)
        files = (str(model), str(photo), str(mask))
        in_cpp = [str(program), *files, "--repeat", str(CALLS)]
        _expect_equal(in_cpp, mask, fast, pixels)
        calls: Mapping[str, Callable[[], float]] = {
            OURS: lambda: _last_call(in_cpp),
            PYTHON: turn(lambda: fast.predict(normalise(pixels.copy()))),
            CPP_PROCESS: partial(_wall, [str(program), *files]),
            PYTHON_PROCESS: partial(_wall, [sys.executable, "-c", IN_PYTHON, *files]),
        }
        times = {name: Timing.of(each) for name, each in interleaved(calls, seconds).items()}
    name = f"T 1x{side}x{side}, {str(dtype).removeprefix('torch.')}"
    of_processes = {process: times.pop(process) for process in (CPP_PROCESS, PYTHON_PROCESS)}
    return Row(TABLE, name, times, of_processes)


def _run(command: Sequence[str]) -> str:
    threads = {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    return subprocess.run(
        command, env=os.environ | threads, check=True, stdout=subprocess.PIPE, text=True
    ).stdout


def _expect_equal(command: Sequence[str], mask: Path, fast: DeployedSegNeXt, pixels: np.ndarray) -> None:
    _run(command)
    expected = fast.predict(normalise(pixels.copy()))[0].numpy()
    different = int((np.asarray(Image.open(mask)) != expected).sum())
    if different:
        raise ValueError(f"cpp_runtime: the masks must be equal, got {different} pixels that differ")


def _last_call(command: Sequence[str]) -> float:
    return float(re.findall(r"^([\d.]+) ms$", _run(command), re.MULTILINE)[-1]) / 1e3


def _wall(command: Sequence[str]) -> float:
    start = time.perf_counter()
    _run(command)
    return time.perf_counter() - start


def table(run: results.Results) -> str:
    """Return the table of docs/cpp.md."""
    names = {OURS: "C++", PYTHON: PYTHON, CPP_PROCESS: CPP_PROCESS, PYTHON_PROCESS: PYTHON_PROCESS}
    lines = [[TABLE, *names.values(), "Python over C++"]]
    for row in run.rows:
        times = row.times | row.beside
        lines.append([row.name, *(f"{times[name].median:.1f}" for name in names), f"{row.ratio:.2f}"])
    return report.aligned(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of `python -m bench.cpp_runtime`."""
    parser = argparse.ArgumentParser(prog="python -m bench.cpp_runtime", description=__doc__)
    parser.add_argument("--program", type=Path, default=PROGRAM, help="the example (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="per dtype (default: %(default)s)")
    parser.add_argument("--side", type=int, default=SIDE, help="of the image (default: %(default)s)")
    parser.add_argument(
        "--results", type=Path, default=results.FOLDER, help="folder of the machines' results"
    )
    options = parser.parse_args(arguments)
    if not options.program.exists():
        parser.error(f"--program must be the built example, got {options.program}; docs/cpp.md builds it")
    host, ceilings = machine.describe(), roofline.measure()
    rows = [measure(options.program, dtype, options.seconds, options.side) for dtype in DTYPES]
    run = results.Results(host, ceilings, rows, {})
    path = results.write(run, options.results, "cpp_runtime")
    print(f"{table(run)}\n\nstored in {path}")


if __name__ == "__main__":
    main()
