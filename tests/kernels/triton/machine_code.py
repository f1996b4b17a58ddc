"""Compiles every Triton kernel for GPUs that are not there, and reports what the machine code needs.

    python -m tests.kernels.triton.machine_code [--full] [--write]

It compiles exactly what would be launched: each op's launchers run on tensors without data (device "meta") while
`launch.start` only notes the kernel, its arguments and configuration, and `tuning.tuned` goes through the whole space.
So no kernel, configuration or dtype can be forgotten, and arguments are specialised (a stride of 1, a multiple of 16)
as Triton would do for the model's own shapes.

It needs a process of its own, without TRITON_INTERPRET. A compilation takes about half a second. By default each kernel
is compiled in its first configuration: in bfloat16 and channels_last for both architectures, and in float32 and
contiguous for sm_90. --full takes all configurations, dtypes and layouts, for both architectures. --write records the
result in machine_code.json, of which the default is a part.
"""

from __future__ import annotations

import argparse
import functools
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import triton

from oracle.gradients import backward_arguments
from oracle.inputs import GPU_DTYPES, LAYOUTS
from oracle.triton_launch import Launch
from segnext_kernels import backend
from segnext_kernels.spec import Sample, Spec, all_specs
from segnext_kernels.triton import launch, tuning

TABLE = Path(__file__).with_name("machine_code.json")
ARCHITECTURES = (80, 90)
BY_DEFAULT = {("bf16", "nhwc", 80), ("bf16", "nhwc", 90), ("fp32", "nchw", 90)}
NEEDS = ("registers", "stack", "shared", "tensor_cores")
CUOBJDUMP = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"


def launches(name: str, run: Callable[[], Any], every_config: bool) -> list[Launch]:
    """Return the launches of one call, in the first configuration of each space or in all."""
    noted: dict[str, Launch] = {}

    def note(function: Any, grid: Any, *args: Any, config: tuning.Config, **constants: Any) -> None:
        assert all(size > 0 for size in grid), f"{name}: grid {grid}"
        one = Launch(function, args, config, constants)
        noted[one.label] = one

    def each(space: tuning.Space, key: str, x: torch.Tensor, run: Callable[[tuning.Config], Any]) -> Any:
        results = [run(config) for config in (space.configs if every_config else space.configs[:1])]
        return results[0]

    before = launch.start, tuning.tuned
    launch.start, tuning.tuned = note, each
    try:
        run()
    finally:
        launch.start, tuning.tuned = before
    return list(noted.values())


def calls(
    spec: Spec, dtype: torch.dtype, memory_format: torch.memory_format, ones: bool = False
) -> Iterator[Callable[[], Any]]:
    """Yield calls of the op's Triton functions on the model's shapes, without data.

    Args:
        ones: take samples of a single pixel instead, since Triton turns sizes of 1 into constants.
    """
    kernels = {op: backend.KERNELS.get(op, {}).get("triton") for op in (spec.name, f"{spec.name}_backward")}
    forward, backward = kernels.values()
    inputs: list[tuple[Sample, dict[str, int]]] = [(shape, {}) for shape in spec.model_shapes]
    if spec.tiles_by_programs:
        inputs += [(shape, {"n": 32}) for shape in spec.model_shapes if not shape.name.startswith("b")]
    if ones:
        inputs = [(sample, {}) for sample in spec.samples if "h1w1" in sample.name.replace("-", "")]
    for sample, changed in inputs:
        args = sample.make(dtype, "meta", memory_format, **changed)
        if forward is not None:
            yield functools.partial(forward.run, *args)
        if backward is not None:
            yield functools.partial(backward.run, *backward_arguments(spec, args, torch.Tensor.detach))


def variants(full: bool, only: str = "") -> Iterator[tuple[Launch, str, int]]:
    """Yield what to compile: a launch, its name with dtype and layout, and an architecture; each comes once."""
    seen: set[str] = set()
    for spec in (spec for name, spec in all_specs().items() if only in name):
        for dtype_name, dtype in GPU_DTYPES.items():
            for layout_name, memory_format in LAYOUTS.items():
                architectures = [
                    sm for sm in ARCHITECTURES if full or (dtype_name, layout_name, sm) in BY_DEFAULT
                ]
                for run in calls(spec, dtype, memory_format) if architectures else ():
                    for noted in launches(spec.name, run, full):
                        labels = {
                            f"{spec.name} {noted.label} {dtype_name} {layout_name} sm_{sm}": sm
                            for sm in architectures
                        }
                        yield from ((noted, label, sm) for label, sm in labels.items() if label not in seen)
                        seen.update(labels)
        for run in calls(spec, torch.float32, torch.contiguous_format, ones=True):
            for noted in launches(spec.name, run, False):
                label = f"{spec.name} {noted.label} ones fp32 nchw sm_90"
                if label not in seen:
                    yield noted, label, 90
                seen.add(label)


def compiled(launch: Launch, sm: int) -> dict[str, int]:
    """Return what a kernel's machine code takes; tensor_cores is 1 if a product runs on them, -1 if it only should."""
    built = launch.compiled(sm)
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(built.asm["cubin"])
        file.flush()
        usage = subprocess.run(
            [CUOBJDUMP, "-res-usage", file.name], capture_output=True, text=True, check=True
        )
    numbers = {key: int(value) for key, value in re.findall(r"(REG|STACK):(\d+)", usage.stdout)}
    # tensor cores do not compute plain float32 products
    wants_tensor_cores = re.search(r"tt\.dot .*(xf16>|xbf16>|tf32x3)", built.asm["ttir"]) is not None
    has_tensor_cores = "mma.sync" in built.asm["ptx"] or "wgmma.mma_async" in built.asm["ptx"]
    return {
        "registers": numbers["REG"],
        "stack": numbers["STACK"],
        "shared": built.metadata.shared,
        "tensor_cores": 1 if has_tensor_cores else -int(wants_tensor_cores),
    }


def read_table() -> tuple[str, dict[str, dict[str, int]]]:
    """Return Triton's version, and a map from each kernel's label to what its machine code took."""
    content = json.loads(TABLE.read_text())
    found = {}
    for label, codes in content["kernels"].items():
        found.update({f"{label} {code}": dict(zip(NEEDS, n, strict=True)) for code, n in codes.items()})
    return content["triton"], found


def write_table(version: str, kernels: dict[str, dict[str, int]]) -> None:
    """Write each launch once, and under it the numbers of `NEEDS` by dtype, layout and architecture."""
    launches: dict[str, dict[str, list[int]]] = {}
    for label, needs in sorted(kernels.items()):
        launch, *code = label.rsplit(" ", 3)
        launches.setdefault(launch, {})[" ".join(code)] = [needs[name] for name in NEEDS]
    lines = ",\n".join(f"  {json.dumps(launch)}: {json.dumps(codes)}" for launch, codes in launches.items())
    head = f' "triton": {json.dumps(version)},\n "numbers": {json.dumps(NEEDS)}'
    TABLE.write_text(f'{{\n{head},\n "kernels": {{\n{lines}\n }}\n}}\n')


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--full", action="store_true", help="all configurations and dtypes, for both architectures"
    )
    parser.add_argument("--write", action="store_true", help=f"record the result in {TABLE.name}")
    parser.add_argument("--only", default="", help="ops whose name contains this")
    arguments = parser.parse_args()
    results = {label: compiled(launch, sm) for launch, label, sm in variants(arguments.full, arguments.only)}
    if arguments.write:
        recorded = read_table()[1] if TABLE.exists() else {}
        kept = {k: v for k, v in recorded.items() if arguments.only and arguments.only not in k.split()[0]}
        write_table(triton.__version__, {**kept, **results})
    json.dump({"triton": triton.__version__, "kernels": results}, sys.stdout, indent=1)


if __name__ == "__main__":
    main()
