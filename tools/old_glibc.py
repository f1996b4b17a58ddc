"""Stand-ins for glibc's libraries at link time, so that a library built here also runs on older systems.

A linker binds a function to its newest version: exp to that of glibc 2.29, pthread_create to that of 2.34, which moved
it into libc.so.6. glibc keeps the old versions, too. A stand-in has a library's name and one version of each function,
that of glibc 2.17, so the linker takes that one.
"""

from __future__ import annotations

import platform
import re
import subprocess
from collections import defaultdict
from pathlib import Path

WANTED = [2, 17]  # the glibc whose versions are taken: that of CentOS 7
MERGED = [2, 34]  # the glibc that moved the functions of these libraries into libc.so.6
HOMES = {"libpthread.so.0": "(pthread|sem)_", "libdl.so.2": "dl", "librt.so.1": "(shm|aio|mq|timer)_"}


def linker_flags(folder: Path, compiler: str = "g++") -> str:
    """Build the stand-ins in ``folder``; return the flags that link with them: none without glibc on x86-64."""
    if platform.machine() != "x86_64" or platform.libc_ver()[0] != "glibc":
        return ""
    folder.mkdir(parents=True, exist_ok=True)
    moved = {name: found for name, found in _versions("libc.so.6", compiler).items() if MERGED in found[1:]}
    libraries = {"libm.so.6": _versions("libm.so.6", compiler)}
    for library, names in HOMES.items():
        libraries[library] = {name: found for name, found in moved.items() if re.match(names, name)}
    built = [_stand_in(folder, library, versions, compiler) for library, versions in libraries.items()]
    return " ".join(["-Wl,--as-needed", *map(str, built)])


def _versions(library: str, compiler: str) -> dict[str, list[list[int]]]:
    """Map each function of a library to the versions that it has, the oldest first."""
    path = _output(compiler, f"-print-file-name={library}").strip()
    listed = _output("nm", "-D", "--defined-only", path)
    versions = defaultdict(list)
    for name, version in re.findall(r" [TWi] (\w+)@+GLIBC_([\d.]+)$", listed, re.MULTILINE):
        versions[name].append([int(part) for part in version.split(".")])
    return {name: sorted(found) for name, found in versions.items()}


def _stand_in(folder: Path, library: str, versions: dict[str, list[list[int]]], compiler: str) -> Path:
    names = defaultdict(list)
    for name, found in versions.items():
        taken = max((version for version in found if version <= WANTED), default=found[0])
        names[".".join(map(str, taken))].append(name)
    source, script, target = (folder / f"{library}{suffix}" for suffix in (".c", ".map", ".stand-in.so"))
    source.write_text("".join(f"void {name}(void) {{}}\n" for name in versions))
    script.write_text("".join(f"GLIBC_{version} {{ {'; '.join(names[version])}; }};\n" for version in names))
    options = (
        "-w",
        "-fno-builtin",
        "-shared",
        "-nostdlib",
        f"-Wl,-soname,{library},--version-script,{script}",
    )
    _output(compiler, "-x", "c", str(source), *options, "-o", str(target))
    return target


def _output(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout
