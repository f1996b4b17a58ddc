"""Builds `_emulated`: g++ compiles all CUDA kernels for the CPU, under AddressSanitizer and UBSan."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator, Sequence
from pathlib import Path

from oracle.sources import CSRC, bindings

ROOT = Path(__file__).resolve().parents[2]
EMULATOR = Path(__file__).resolve().parent
FOLDER = ROOT / "build" / "cuda_emulator"  # the next session uses the objects again
LIBRARY = f"_emulated{sysconfig.get_config_var('EXT_SUFFIX')}"
BASE = (
    "-std=c++17 -fPIC -fvisibility=hidden -g1 -fno-omit-frame-pointer -Wall -Wextra -Wno-unknown-pragmas"
    " -DSEGNEXT_WITH_CUDA"  # and without SEGNEXT_WITH_CPU: the CPU kernels are not linked
)
# -O1 compiles in a third of -O2's time. Only small functions are inlined, so that reports name the place in the source.
SANITIZERS = "-fsanitize=address,undefined -fno-sanitize-recover=undefined"
KERNELS = f"-O1 -finline-small-functions -fno-strict-aliasing {SANITIZERS}"
SCHEDULER = "-O2"


def preloaded() -> str | None:
    """Return what must be loaded first: AddressSanitizer, and the C++ library whose exceptions it watches.

    It is None if g++ has no AddressSanitizer.
    """
    if shutil.which("g++") is None:
        return None
    paths = []
    for name in ("libasan.so", "libstdc++.so.6"):
        command = ["g++", f"-print-file-name={name}"]
        paths.append(subprocess.run(command, capture_output=True, text=True).stdout.strip())
    return " ".join(paths) if all(Path(path).is_absolute() for path in paths) else None


def library() -> Path:
    """Build the library of the checkout's kernels."""
    return _build(FOLDER, _sources(), [])


def broken_library(op: str, file: str, right: str, wrong: str) -> Path:
    """Build the library with one text of ``csrc/<file>`` replaced; ``op``'s kernels are compiled again.

    Each break has a folder of its own: tests that want the same one, in this session or a later one, share a build.
    """
    text = (CSRC / file).read_text()
    assert text.count(right) == 1, f"{file} holds {right!r} {text.count(right)} times"
    folder = FOLDER / f"broken-{hashlib.blake2b((file + right + wrong).encode(), digest_size=8).hexdigest()}"
    sources = sorted((CSRC / "ops" / op).glob("*.cu"))
    again = {source: folder / "csrc" / source.relative_to(CSRC) for source in sources}
    contents = {copy: source.read_text() for source, copy in again.items()}
    contents[folder / "csrc" / file] = text.replace(right, wrong)
    library()
    with locked(folder):
        for copy, content in contents.items():
            if not copy.exists() or copy.read_text() != content:
                copy.parent.mkdir(parents=True, exist_ok=True)
                copy.write_text(content)
    kept = [FOLDER / _object(source) for source in _sources() if source not in again]
    return _build(folder, list(again.values()), kept)


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Let one process at a time build in ``folder``, which is made."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _sources() -> list[Path]:
    emulator = [*sorted(EMULATOR.glob("*.cu")), *sorted(EMULATOR.glob("*.cpp"))]
    return [*sorted(CSRC.rglob("*.cu")), bindings(FOLDER), *emulator]


def _object(source: Path) -> str:
    return "_".join(source.with_suffix(".o").parts[-2:])


def _build(folder: Path, sources: Sequence[Path], objects: Sequence[Path]) -> Path:
    """Build from ``sources``, and from ``objects`` of an earlier build."""
    includes = [f"-I{EMULATOR / 'include'}", f"-I{folder / 'csrc'}", f"-I{CSRC}", f"-I{EMULATOR}"]
    python = [f"-isystem {sysconfig.get_path('include')}"]
    lines = [
        "rule cxx",
        f"  command = g++ {BASE} $flags {' '.join(includes + python)} -MMD -MF $out.d -c $in -o $out",
        "  depfile = $out.d",
        "  deps = gcc",
        "rule link",
        f"  command = g++ -shared {SANITIZERS} $in -o $out",
    ]
    names = [str(path) for path in objects]
    for path in sources:
        flags = f"-x c++ {KERNELS}" if path.suffix == ".cu" else SCHEDULER
        lines += [f"build {_object(path)}: cxx {path}", f"  flags = {flags}"]
        names.append(_object(path))
    lines.append(f"build {LIBRARY}: link {' '.join(names)}")
    with locked(folder):
        (folder / "build.ninja").write_text("\n".join(lines) + "\n")
        jobs = os.environ.get("MAX_JOBS") or str(os.cpu_count() or 1)
        done = subprocess.run(
            [sys.executable, "-m", "ninja", "-j", jobs], cwd=folder, capture_output=True, text=True
        )
    assert done.returncode == 0, (done.stdout + done.stderr)[-6000:]
    return folder / LIBRARY
