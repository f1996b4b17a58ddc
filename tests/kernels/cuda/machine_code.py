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
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from oracle.nvcc import NVCC, readable, release
from oracle.sources import CSRC, digest
from segnext_kernels import native

TABLE = Path(__file__).with_suffix(".json")
SOURCES = {path.stem: path for path in sorted(CSRC.rglob("*.cu"))}
MACHINE_CODE = ("80", "90")
FLAGS = ("-std=c++17", "-O3")
RESERVED = 1024  # bytes of shared memory per block that the system takes since sm_90, which cuobjdump counts

_KERNEL = re.compile(
    r"Compiling entry function '(?P<name>\w+)' for 'sm_(?P<sm>\d+)'.*?"
    r"(?P<stack>\d+) bytes stack frame, (?P<stores>\d+) bytes spill stores, (?P<loads>\d+) bytes spill loads.*?"
    r"Used (?P<registers>\d+) registers(?P<rest>[^\n]*)",
    re.DOTALL,
)
# what cuobjdump prints: an architecture, then each of its kernels
_USAGE = re.compile(
    r"^arch = sm_(?P<sm>\d+)|Function (?P<name>\w+):\s+"
    r"REG:(?P<registers>\d+) STACK:(?P<stack>\d+) SHARED:(?P<shared>\d+)",
    re.MULTILINE,
)


@dataclass(frozen=True)
class Kernel:
    """Holds what one kernel takes on one architecture, without dynamic shared memory."""

    registers: int
    shared: int  # bytes of static shared memory
    spilled: int  # bytes of spills and of the stack frame


def compile_alone(
    source: Path, folder: Path, architectures: Sequence[str] = MACHINE_CODE
) -> dict[str, dict[str, Kernel]]:
    """Compile a file; map kernel, then architecture such as "sm_80", to what it takes."""
    command = [str(NVCC), *FLAGS, f"-I{CSRC}", "-Xptxas=-v", "-c", str(source)]
    command += ["-o", str(folder / f"{source.stem}.o")]
    command += [f"-gencode=arch=compute_{sm},code=sm_{sm}" for sm in architectures]
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


def in_library(folder: Path = Path(native.__file__).parent) -> dict[str, dict[str, Kernel]]:
    """Map the kernels of the built library to what they take on the architectures that it was built for.

    It is empty unless the library comes from today's sources, by this nvcc and with the same optimisation, and
    Triton's cuobjdump is there to read it. A kernel that two files have counts with the larger numbers.
    """
    record = folder / "_build.json"
    libraries = list(folder.glob("_C.*.so"))
    triton = find_spec("triton")
    if not record.exists() or len(libraries) != 1 or triton is None or triton.origin is None:
        return {}
    content = json.loads(record.read_text())
    cuda = content.get("cuda")
    if not cuda or content["sources"] != digest() or cuda["nvcc"] != release():
        return {}
    if not set(FLAGS).issubset(cuda["flags"].split()):
        return {}
    cuobjdump = Path(triton.origin).parent / "backends/nvidia/bin/cuobjdump"
    done = subprocess.run([cuobjdump, "-res-usage", libraries[0]], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    found = []  # symbol, architecture, numbers
    sm = ""
    for match in _USAGE.finditer(done.stdout):
        sm = match["sm"] or sm
        if match["name"]:
            registers, stack, shared = (int(match[key]) for key in ("registers", "stack", "shared"))
            static = max(shared - RESERVED, 0) if int(sm) >= 90 else shared
            found.append((match["name"], f"sm_{sm}", Kernel(registers, static, stack)))
    kernels: dict[str, dict[str, Kernel]] = {}
    for name, (_, architecture, kernel) in zip(readable([one[0] for one in found]), found, strict=True):
        by_sm = kernels.setdefault(name, {})
        other = by_sm.get(architecture, kernel)
        by_sm[architecture] = Kernel(
            max(kernel.registers, other.registers),
            max(kernel.shared, other.shared),
            max(kernel.spilled, other.spilled),
        )
    return kernels


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
