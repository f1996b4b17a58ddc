"""What CMake builds: the kernels as setup.py compiles them, a header that C reads, a package that CMake finds."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.runtime import built

pytestmark = pytest.mark.skipif(built.missing() is not None, reason=built.missing() or "")
# Switches of compiling as such, and those by which setup.py and CMake differ and that change no result.
IRRELEVANT = re.compile(
    r"-(c|o|MD|MMD|MF|MT|fopenmp|I.*|isystem|DNDEBUG|Dsegnext_EXPORTS|fvisibility-inlines-hidden)$"
)


def switches(command: str) -> set[str]:
    return {word for word in command.split() if word.startswith("-") and not IRRELEVANT.match(word)}


def test_kernels_are_compiled_as_setup_py_compiles_them() -> None:
    folder = built.configured("flags", CMAKE_EXPORT_COMPILE_COMMANDS="ON", SEGNEXT_INSTRUCTION_SETS="all")
    code = (
        "import json, sys; sys.path.insert(0, 'csrc'); import compilation\n"
        "sets, macros, refused = compilation.instruction_sets(sys.argv[1])\n"
        "print(json.dumps([compilation.COMPILE_FLAGS, macros, sets]))"
    )
    flags, macros, sets = json.loads(
        subprocess.run(
            [sys.executable, "-c", code, built.COMPILER],
            cwd=built.ROOT,
            text=True,
            capture_output=True,
            check=True,
        ).stdout
    )
    found: dict[str, set[str]] = {}
    for entry in json.loads((folder / "compile_commands.json").read_text()):
        file = Path(entry["file"]).relative_to(built.ROOT)
        if file.match("csrc/ops/*/*_cpu.cpp"):
            (name,) = re.findall(r"-DSEGNEXT_ISA=(\w+)", entry["command"])
            given = switches(entry["command"])
            assert found.setdefault(name, given) == given, file
    assert found == {name: {*flags, *macros, *own, f"-DSEGNEXT_ISA={name}"} for name, own in sets.items()}


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ("avx3", "SEGNEXT_INSTRUCTION_SETS must be all, native or some of .*, got avx3"),
        ("avx2;sse", "SEGNEXT_INSTRUCTION_SETS must be all, native or some of .*, got sse"),
    ],
)
def test_unknown_instruction_sets(wanted: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(AssertionError) as failure:
        built.run("cmake", "-S", built.ROOT, "-B", tmp_path, f"-DSEGNEXT_INSTRUCTION_SETS={wanted}")
    assert re.search(message, " ".join(str(failure.value).split()))


def test_one_version() -> None:
    """The header's is that of the Python package, and CMake's is the header's."""
    header = (built.ROOT / "csrc" / "runtime" / "segnext.h").read_text()
    (version,) = re.findall(r'#define SEGNEXT_VERSION "(.+)"', header)
    assert (built.ROOT / "segnext_kernels" / "VERSION").read_text().strip() == version
    assert (
        f"CMAKE_PROJECT_VERSION:STATIC={version}"
        in (built.configured("flags") / "CMakeCache.txt").read_text()
    )


def test_programs_find_the_installed_package(tmp_path: Path) -> None:
    """The snippet of docs/cpp.md, in C, as a project of its own."""
    library = built.library()
    built.run("cmake", "--install", library.parent, "--prefix", tmp_path / "installed")
    page = (built.ROOT / "docs" / "cpp.md").read_text()
    (program,) = re.findall(r"```c\n(.*?)```", page, re.DOTALL)
    (project,) = re.findall(r"```cmake\n(.*?)```", page, re.DOTALL)
    (tmp_path / "main.c").write_text(program)
    (tmp_path / "CMakeLists.txt").write_text(project)
    build, prefix = tmp_path / "build", f"-DCMAKE_PREFIX_PATH={tmp_path / 'installed'}"
    strict = "-DCMAKE_C_FLAGS=-std=c99 -Wall -Wextra -Wpedantic -Werror"
    built.run("cmake", "-S", tmp_path, "-B", build, prefix, strict)
    built.run("cmake", "--build", build)
    with pytest.raises(
        AssertionError, match=r"^segnext_open: nothing.safetensors must be a file, got none there"
    ):
        built.run(build / "program", "nothing.safetensors")


def test_only_the_c_interface_is_exported() -> None:
    symbols = built.run("nm", "-D", "--defined-only", "-C", built.library()).splitlines()
    names = {line.split(maxsplit=2)[2] for line in symbols}
    header = (built.ROOT / "csrc" / "runtime" / "segnext.h").read_text()
    declared = set(re.findall(r"SEGNEXT_API [\w* ]+?\b(segnext_\w+)\(", header))
    ours = {name for name in names if "segnext" in name}
    assert ours == declared and len(declared) == 12
