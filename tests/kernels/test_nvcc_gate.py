"""Every .cu file compiles alone for sm_80 and sm_90, without spills or stack frames."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

CSRC = Path(__file__).resolve().parents[2] / "csrc"
NVCC = shutil.which("nvcc") or next(iter(map(str, Path("/usr/local").glob("cuda/bin/nvcc"))), None)
# Of each op's kernels the most registers a thread may take: more would cost occupancy. 65536 / (64 x 256) = 4
# blocks of 256 threads a multiprocessor; dwconv_gelu's weights and sums take one block of 256, msca_conv's Toeplitz
# form one of 512.
MOST_REGISTERS = {"dwconv_gelu": 170, "msca_conv": 128, "upsample_argmax": 64}


@pytest.mark.skipif(NVCC is None, reason="nvcc is not installed")
@pytest.mark.parametrize("source", sorted(CSRC.glob("*/*.cu")), ids=lambda path: path.stem)
def test_compiles_without_spills(source: Path, tmp_path: Path) -> None:
    assert NVCC is not None
    command = [NVCC, "-std=c++17", "-O3", f"-I{CSRC}", "-Xptxas", "-v", "-c", str(source)]
    command += ["-o", str(tmp_path / "object.o")]
    command += [f"-gencode=arch=compute_{sm},code=sm_{sm}" for sm in (80, 90)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for kind in ("stack frame", "spill stores", "spill loads"):
        sizes = [int(size) for size in re.findall(rf"(\d+) bytes {kind}", done.stderr)]
        assert not any(sizes), f"{source.name}: {kind} of up to {max(sizes)} bytes\n{done.stderr}"
    registers = [int(count) for count in re.findall(r"Used (\d+) registers", done.stderr)]
    if registers:
        assert max(registers) <= MOST_REGISTERS[source.parent.name]
