"""Builds a library that records launches: csrc's kernels for sm_90, their bindings, and a runtime that only notes.

Objects stay in build/issue_model; ninja compiles only what has changed.
"""

from __future__ import annotations

import fcntl
import functools
import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.issue_model.executor import CACHE, FOLDER
from oracle.nvcc import NVCC
from oracle.sources import CSRC, bindings

LIBRARY = f"_recording{sysconfig.get_config_var('EXT_SUFFIX')}"
# The flags of setup.py; -lineinfo adds the source lines and changes no instruction.
NVCC_FLAGS = (
    "-std=c++17 -O3 -lineinfo -gencode=arch=compute_90,code=sm_90 -Xcompiler -fPIC,-fvisibility=hidden"
)


def nvcc() -> str:
    """Return the path of CUDA's compiler."""
    if NVCC is None:
        raise FileNotFoundError("issue_model: nvcc was not found; install CUDA 13's compiler")
    return NVCC


def sources(folders: Sequence[str] | None = None) -> list[Path]:
    """List csrc's .cu files, of all ops or of those whose folder is named."""
    return [path for path in sorted(CSRC.rglob("*.cu")) if folders is None or path.parent.name in folders]


def build(folders: Sequence[str] | None = None, extra: Sequence[Path] = ()) -> tuple[Path, list[Path]]:
    """Build the library with the launchers of these folders (and of ``csrc/cuda``), and the cubins of its kernels.

    All ops are bound, but the launchers of other folders stay undefined: to call one is an error of the loader.
    """
    wanted = None if folders is None else sorted({*folders, "cuda"})
    kernels = [*sources(wanted), *extra]
    name = "all" if wanted is None else "-".join(wanted)
    folder = CACHE / "objects"
    folder.mkdir(parents=True, exist_ok=True)
    includes = f"-I{CSRC} -I{FOLDER}"
    python = f"-DSEGNEXT_WITH_CUDA -isystem {sysconfig.get_path('include')}"
    from bench.issue_model.sass import nvdisasm

    cuobjdump = Path(nvdisasm()).with_name("cuobjdump")
    ccache = "ccache " if shutil.which("ccache") else ""
    lines = [
        "rule host",  # nvcc compiles the runtime too, since it knows where its own headers are
        f"  command = {nvcc()} -std=c++17 -O1 -Xcompiler -fPIC,-fvisibility=hidden {includes} {python} -c $in -o $out",
        "rule cuda",
        f"  command = {ccache}{nvcc()} {NVCC_FLAGS} {includes} -MD -MF $out.d -c $in -o $out",
        "  depfile = $out.d",
        "  deps = gcc",
        "rule cubin",
        f"  command = rm -rf $out.x && mkdir $out.x && cd $out.x && {cuobjdump} -xelf all ../$in > /dev/null && "
        "cat *.cubin > ../$out && cd .. && rm -r $out.x",
        "rule cxx",
        f"  command = {ccache}g++ -std=c++17 -O1 -fPIC -fvisibility=hidden {includes} {python} "
        "-MMD -MF $out.d -c $in -o $out",
        "  depfile = $out.d",
        "  deps = gcc",
        "rule link",
        "  command = g++ -shared $in -o $out",
    ]
    objects, cubins = [], []
    for path in kernels:
        stem = f"{path.parent.name}_{path.stem}"
        lines += [f"build {stem}.o: cuda {path}", f"build {stem}.cubin: cubin {stem}.o"]
        objects.append(f"{stem}.o")
        cubins.append(folder / f"{stem}.cubin")
    for rule, path in [("cxx", bindings(folder)), ("host", FOLDER / "runtime.cpp")]:
        lines.append(f"build {path.stem}.o: {rule} {path}")
        objects.append(f"{path.stem}.o")
    library = f"{name}/{LIBRARY}"
    lines.append(f"build {library}: link {' '.join(objects)}")
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        file = folder / f"{name}.ninja"
        file.write_text("\n".join(lines) + "\n")
        jobs = os.environ.get("MAX_JOBS") or str(os.cpu_count() or 1)
        done = subprocess.run(
            [sys.executable, "-m", "ninja", "-j", jobs, "-f", file.name],
            cwd=folder,
            capture_output=True,
            text=True,
        )
    if done.returncode:
        raise RuntimeError(f"issue_model: the kernels do not compile:\n{(done.stdout + done.stderr)[-6000:]}")
    return folder / library, [path for path in cubins if path.stat().st_size]


@functools.cache
def load(path: Path) -> Any:
    """Load the library as a Python module; functions that no object defines stay undefined until they are called."""
    before = sys.getdlopenflags()
    sys.setdlopenflags(os.RTLD_LAZY)
    try:
        spec = importlib.util.spec_from_file_location("_recording", path)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    finally:
        sys.setdlopenflags(before)
    return module
