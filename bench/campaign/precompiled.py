"""Compiles Triton's kernels for a GPU that is not there: a lent GPU's minutes are too short for the compiler.

    python -m bench.campaign.precompiled DIR [--capability 9.0]

It needs the Triton version of the machine with the GPU. Each op's launchers run on tensors without data, in all
configurations, for the deployed models and for the shapes of the campaign; Triton compiles what they would launch and
keeps it in its cache, DIR/triton. `python -m bench.campaign --prebuilt DIR` uses it there. What does not match (another
version of Triton or of the kernels) is compiled anew.
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import torch

FOLDER = "triton"
PLACE = Path(tempfile.gettempdir()) / "segnext-precompiled"  # the cache's own path, which its files contain
READ = (".cubin", ".json")  # what Triton needs of a compiled kernel; the rest is for people


def install(folder: Path) -> None:
    """Let this process and its children use the cache in ``folder``, if there is one."""
    if not (folder / FOLDER).is_dir():
        return
    shutil.copytree(folder / FOLDER, PLACE, dirs_exist_ok=True)
    os.environ["TRITON_CACHE_DIR"] = str(PLACE)


def main() -> None:
    """Entry point of `python -m bench.campaign.precompiled`."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, metavar="DIR")
    parser.add_argument("--capability", default="9.0", help="compute capability; default: 9.0")
    options = parser.parse_args()
    major, minor = map(int, options.capability.split("."))
    os.environ["TRITON_CACHE_DIR"] = str(PLACE)
    count = 0
    for name, run in calls():
        count += compile_launches(run, (major, minor))
        print(f"{count} kernels compiled up to {name}", flush=True)
    target = options.folder / FOLDER
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(PLACE, target)
    for path in target.rglob("*"):
        if path.is_file() and path.suffix not in READ:
            path.write_bytes(b"")  # the file must exist
    print(f"{target}: {sum(path.stat().st_size for path in target.rglob('*')) >> 20} MiB")


def calls() -> Iterator[tuple[str, Callable[[], Any]]]:
    """Yield named functions that launch what the campaign will launch, on tensors without data."""
    from bench import launches
    from bench.campaign import cases, models
    from oracle.gradients import backward_arguments
    from segnext import create_model
    from segnext_kernels.backend import KERNELS

    for job in models.MODELS:
        size, *numbers = job.split()
        batch, height, width, classes = map(int, numbers)
        fast = launches.on_meta(create_model(f"segnext_{size}", num_classes=classes).eval())  # type: ignore[arg-type]
        images = torch.empty(batch, 3, height, width, device="meta").to(memory_format=torch.channels_last)
        yield f"model {job}", lambda fast=fast, images=images: fast.predict(images)  # type: ignore[misc]
    for kernel in cases.kernels(dry_run=False):
        if kernel.backend != "triton":
            continue
        is_forward = kernel.direction == "forward"
        run = KERNELS[kernel.op if is_forward else f"{kernel.op}_backward"]["triton"].run
        for shape in cases.shapes(kernel.spec, dry_run=False):
            for dtype in (torch.bfloat16, torch.float32)[
                : 2 if shape == kernel.spec.model_shapes[0].name else 1
            ]:
                sample, changed = cases.sample_of(kernel.spec, shape)
                args = sample.make(dtype, "meta", torch.channels_last, **changed)
                if not is_forward:
                    args = backward_arguments(kernel.spec, args, torch.Tensor.detach)
                yield f"{kernel} {shape}", lambda run=run, args=args: run(*args)  # type: ignore[misc]


def compile_launches(run: Callable[[], Any], capability: tuple[int, int]) -> int:
    """Compile what a call on tensors without data would launch, in every configuration; return how much was new."""
    from triton.runtime import driver

    from bench.launches import Recorder
    from segnext_kernels.triton import tuning

    class Compiler(Recorder):
        """Compiles Triton's launches instead of noting them."""

        def _note_triton(self, function: Any, grid: Any, *args: Any, config: Any, **constants: Any) -> None:
            options = config.options(capability)
            function.warmup(*args, grid=grid, **dict(config.sizes), **constants, **options)

    def every(space: Any, key: str, x: torch.Tensor, run: Callable[[Any], Any]) -> Any:
        fitting = space.fitting(x.element_size(), SHARED)
        return [run(config) for config in fitting][0]

    before = len(list(PLACE.glob("*"))) if PLACE.exists() else 0
    driver.set_active(_Absent(capability))
    with mock.patch.object(tuning, "tuned", every), Compiler(), torch.inference_mode():
        run()
    return len(list(PLACE.glob("*"))) - before


SHARED = 227 << 10  # bytes of shared memory that a block of a Hopper GPU may have


class _Absent:
    """Tells Triton's compiler what it asks of a driver."""

    def __init__(self, capability: tuple[int, int]) -> None:
        from triton.backends.compiler import GPUTarget

        self._target = GPUTarget("cuda", 10 * capability[0] + capability[1], 32)

    def get_current_target(self) -> Any:
        return self._target

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: Any = None) -> int:
        return 0

    def get_active_torch_device(self) -> torch.device:
        return torch.device("cpu")


if __name__ == "__main__":
    main()
