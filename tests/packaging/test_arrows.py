"""Tests who imports whom: imports between packages, folders and headers go one way, and never in a circle."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import segnext_kernels
from bench.pages import arrows

ROOT = Path(__file__).resolve().parents[2]
# package -> the packages that it may import
PACKAGES = {
    "segnext_kernels": (),
    "segnext": ("segnext_kernels",),
    "oracle": ("segnext_kernels",),
    "bench": ("segnext_kernels", "segnext", "oracle"),
    "tools": ("segnext_kernels", "segnext"),
    "tests": ("segnext_kernels", "segnext", "oracle", "bench", "tools"),
}
# parts of segnext, the lowest first: each imports only those of earlier lines
FLOORS = (
    ("device", "heartbeat", "locks", "one_line", "signals"),
    ("atomic", "ranks", "safe_yaml"),
    ("models", "drawing"),
    ("data",),
    ("weights",),
    ("create", "deployment", "measure"),
    ("export",),
    ("predict", "patching"),
    ("integrations", "serve", "film"),
    ("evaluation",),
    ("training",),
)
TOP = "cli"  # it imports them all
# folder of csrc -> the folders whose headers it may include, beside its own
HEADERS = {
    "common": (),
    "cpu": ("common",),
    "cuda": ("common",),
    "ops": ("common", "cpu", "cuda"),
    "runtime": ("common", "ops"),
}

# what segnext may use of segnext_kernels beside its functions: checks of arguments, the layers of deployed models, the
# self-check, memory formats, and plain convolutions
PUBLIC = (
    "segnext_kernels",
    "segnext_kernels.checks",
    "segnext_kernels.packed",
    "segnext_kernels.self_check",
    "segnext_kernels.memory_format",
    "segnext_kernels.ops.pointwise.op",
)


def modules(package: str) -> dict[str, Path]:
    """Map the name of each module of a package to its file."""
    found = {}
    for path in sorted((ROOT / package).rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = {name: path for package in PACKAGES for name, path in modules(package).items()}


def imports(path: Path) -> Iterator[tuple[str, str]]:
    """Yield module and name of each import, inside functions too; the name is empty if a module is imported."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0 and node.module, f"{path}: a relative import"
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                is_function = node.module == PUBLIC[0] and alias.name in segnext_kernels.__all__
                yield (inner, "") if inner in MODULES and not is_function else (node.module, alias.name)


def test_packages() -> None:
    wrong = [
        f"{name} imports {module}"
        for name, path in MODULES.items()
        for module, _ in imports(path)
        if (package := module.split(".")[0]) in PACKAGES
        and package not in (own := name.split(".")[0], *PACKAGES[own])
    ]
    assert not wrong, "\n".join(wrong)


def test_segnext_uses_public_names_of_segnext_kernels() -> None:
    wrong = [
        f"{name} imports {module}.{what}"
        for name, path in modules("segnext").items()
        for module, what in imports(path)
        if module.split(".")[0] == "segnext_kernels"
        and (
            module not in PUBLIC
            or (module == PUBLIC[0] and what not in (*segnext_kernels.__all__, "__version__"))
        )
    ]
    assert not wrong, "\n".join(wrong)


def test_rooms_of_segnext() -> None:
    floor = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
    wrong = []
    for name, path in modules("segnext").items():
        room = (name.split(".") + [""])[1]
        if not room or room.startswith("__") or room == TOP:
            continue  # the package itself names what it offers
        assert room in floor, f"{name}: give {room} a floor in {Path(__file__).name}"
        for module, _ in imports(path):
            package, *inner = module.split(".")
            if package == "segnext" and inner[:1] != [room]:
                is_below = bool(inner) and floor.get(inner[0], len(FLOORS)) < floor[room]
                wrong += [] if is_below else [f"{name} imports {module}"]
    assert not wrong, "\n".join(wrong)


def test_the_drawing_has_these_floors() -> None:
    assert (arrows.FLOORS, arrows.TOP) == (FLOORS, TOP), "docs/design.md's drawing: bench/pages/arrows.py"


def test_no_circles() -> None:
    left = {
        name: {m for m, _ in imports(path) if m in MODULES and m != name} for name, path in MODULES.items()
    }
    while ends := {
        name for name, others in left.items() if not others
    }:  # those that import nothing that is left
        left = {name: others - ends for name, others in left.items() if name not in ends}
    way: list[str] = []
    while left and (name := min(left[way[-1]]) if way else min(left)) not in way:
        way.append(name)
    assert not left, f"{' imports '.join([*way[way.index(name) :], name])}"


def test_headers() -> None:
    wrong = []
    for folder, below in HEADERS.items():
        for path in sorted(path for path in (ROOT / "csrc" / folder).rglob("*") if path.is_file()):
            for room, header in re.findall(r'#include "(\w+)/([^"]+)"', path.read_text(encoding="utf-8")):
                if room not in (folder, *below):
                    wrong.append(f"{path.relative_to(ROOT)} includes {room}/{header}")
    assert not wrong, "\n".join(wrong)
