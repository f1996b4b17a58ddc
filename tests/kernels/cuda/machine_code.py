"""Compiles every .cu file alone and reads what ptxas says about each kernel.

`python -m tests.kernels.cuda.machine_code` writes machine_code.json again: after a new kernel, or after a change that
is worth it. `python -m tests.kernels.cuda.machine_code group_norm_act` does so for the files of one op.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from oracle.nvcc import NVCC, readable, release
from oracle.sources import CSRC

TABLE = Path(__file__).with_suffix(".json")
SOURCES = {path.stem: path for path in sorted(CSRC.rglob("*.cu"))}
MACHINE_CODE = ("80", "90")
PTX = "120"  # for devices newer than the machine code

_KERNEL = re.compile(
    r"Compiling entry function '(?P<name>\w+)' for 'sm_(?P<sm>\d+)'.*?"
    r"(?P<stack>\d+) bytes stack frame, (?P<stores>\d+) bytes spill stores, (?P<loads>\d+) bytes spill loads.*?"
    r"Used (?P<registers>\d+) registers(?P<rest>[^\n]*)",
    re.DOTALL,
)


@dataclass(frozen=True)
class Kernel:
    """Holds what one kernel takes on one architecture, without dynamic shared memory."""

    registers: int
    shared: int  # bytes of static shared memory
    spilled: int  # bytes of spills and of the stack frame


def compile_alone(source: Path, folder: Path) -> dict[str, dict[str, Kernel]]:
    """Compile a file; map kernel, then architecture such as "sm_80", to what it takes.

    PTX for newer devices is compiled too, if this nvcc knows their architecture.
    """
    known = subprocess.run([str(NVCC), "--list-gpu-arch"], capture_output=True, text=True).stdout
    command = [str(NVCC), "-std=c++17", "-O3", f"-I{CSRC}", "-Xptxas=-v", "-c", str(source)]
    command += [
        "-o",
        str(folder / f"{source.stem}.o"),
    ]
    command += [f"-gencode=arch=compute_{sm},code=sm_{sm}" for sm in MACHINE_CODE]
    if f"compute_{PTX}" in known:
        command.append(f"-gencode=arch=compute_{PTX},code=compute_{PTX}")
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-6000:]
    kernels: dict[str, dict[str, Kernel]] = {}
    matches = list(_KERNEL.finditer(done.stderr))
    for match, name in zip(matches, readable([match["name"] for match in matches]), strict=True):
        shared = re.search(r"(\d+) bytes smem", match["rest"])
        spilled = sum(int(match[kind]) for kind in ("stack", "stores", "loads"))
        kernel = Kernel(int(match["registers"]), int(shared[1]) if shared else 0, spilled)
        kernels.setdefault(name, {})[f"sm_{match['sm']}"] = kernel
    return dict(sorted(kernels.items()))


def read_table() -> tuple[str, dict[str, dict[str, dict[str, Kernel]]]]:
    """Return nvcc's release, and a map from file, kernel and architecture to numbers."""
    table = json.loads(TABLE.read_text())
    files = {
        stem: {
            name: {sm: Kernel(*numbers, spilled=0) for sm, numbers in by_sm.items()}
            for name, by_sm in kernels.items()
        }
        for stem, kernels in table["registers, static shared memory"].items()
    }
    return table["nvcc"], files


def write_table(files: Mapping[str, Mapping[str, Mapping[str, Kernel]]]) -> None:
    """Write one line per kernel, so that a change shows as one line."""
    lines = [f'{{"nvcc": {json.dumps(release())}, "registers, static shared memory": {{']
    blocks = []
    for stem, kernels in sorted(files.items()):
        rows = [
            f"  {json.dumps(name)}: "
            + json.dumps({sm: [kernel.registers, kernel.shared] for sm, kernel in sorted(by_sm.items())})
            for name, by_sm in kernels.items()
        ]
        blocks.append(f" {json.dumps(stem)}: {{\n" + ",\n".join(rows) + "\n }")
    TABLE.write_text("\n".join([*lines, ",\n".join(blocks), "}}"]) + "\n")


def main(ops: list[str]) -> None:
    old = read_table()[1] if TABLE.exists() and ops else {}
    files = {stem: old[stem] for stem in SOURCES if stem in old}
    with tempfile.TemporaryDirectory() as folder:
        for stem, source in SOURCES.items():
            if not ops or source.parent.name in ops or stem not in old:
                files[stem] = compile_alone(source, Path(folder))
                for name, by_sm in files[stem].items():
                    for sm, kernel in by_sm.items():
                        print(f"{name} {sm}: {kernel.registers} registers, {kernel.spilled} bytes spilled")
    write_table({stem: kernels for stem, kernels in files.items() if kernels})


if __name__ == "__main__":
    main(sys.argv[1:])
