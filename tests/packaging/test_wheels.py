"""Tests what a release uploads: `make wheel`'s files install where nothing compiles, and work there.

The wheel is built for this machine's instruction set alone and unoptimised, which takes a fifth of the time. That of a
release is built by the same code; CONTRIBUTING's checklist installs it.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segnext import __version__
from tools import wheels

ROOT = Path(__file__).resolve().parents[2]
EPOCH = "1767225600"  # 2026-01-01

pytestmark = [
    pytest.mark.proof,
    pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++"),
    pytest.mark.skipif(sys.platform != "linux", reason="auditwheel is for Linux"),
]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Build the sdist and the wheel."""
    pytest.importorskip("auditwheel")
    return _build(tmp_path_factory.mktemp("dist"))


def _build(folder: Path) -> dict[str, Path]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CXXFLAGS", "-O0")
        patch.setenv("SOURCE_DATE_EPOCH", EPOCH)
        patch.delenv("PYTHONPATH", raising=False)
        sdist, wheel = wheels.build(folder, ("sdist", "cpu"), mode="native")
    return {"sdist": sdist, "wheel": wheel}


def test_wheel_is_for_every_python_and_an_old_glibc(files: dict[str, Path], tmp_path: Path) -> None:
    name = files["wheel"].name
    assert re.fullmatch(rf"segnext-{re.escape(__version__)}-cp310-abi3-manylinux\w+\.whl", name), name
    with zipfile.ZipFile(files["wheel"]) as archive:
        library = Path(archive.extract("segnext_kernels/_C.abi3.so", tmp_path))
    needed = subprocess.run(["readelf", "-dV", library], capture_output=True, text=True, check=True).stdout
    assert "libgomp" not in needed and "libomp" not in needed
    found = [tuple(map(int, text.split("."))) for text in re.findall(r"\bGLIBC_([\d.]+)", needed)]
    assert found
    if sysconfig.get_platform() == "linux-x86_64":
        assert max(found) <= (2, 17), max(found)


def test_contents(files: dict[str, Path]) -> None:
    with zipfile.ZipFile(files["wheel"]) as archive:
        names = archive.namelist()
        version = archive.read("segnext_kernels/VERSION").decode().strip()
        (metadata,) = (archive.read(name).decode() for name in names if name.endswith(".dist-info/METADATA"))
    assert version == __version__ and f"\nVersion: {__version__}\n" in metadata
    wanted = ("segnext/py.typed", "segnext/weights/camvid.safetensors", "segnext_kernels/_build.json")
    assert not set(wanted) - set(names)
    assert any(name.endswith("/licenses/LICENSE") for name in names)
    packages = ("segnext/", "segnext_kernels/", f"segnext-{__version__}.dist-info/")
    assert not [
        name for name in names if not name.startswith(packages)
    ]  # no libraries from elsewhere, no tests
    assert not [name for name in names if name.endswith((".cpp", ".h", ".cu", ".cuh"))]
    with tarfile.open(files["sdist"]) as archive:
        shipped = {name.partition("/")[2] for name in archive.getnames()}
    assert {"setup.py", "csrc/module.cpp", "csrc/compilation.py", "tools/wheels.py", "LICENSE"} <= shipped


def test_two_builds_are_the_same_bytes(files: dict[str, Path], tmp_path: Path) -> None:
    """Another folder, another time and another user's umask change nothing."""
    umask = os.umask(0o077)
    try:
        again = _build(tmp_path / "another folder")
    finally:
        os.umask(umask)
    for kind, file in files.items():
        assert again[kind].name == file.name
        assert again[kind].read_bytes() == file.read_bytes(), f"the {kind} differs"


def _mask(command: list[str], folder: Path, **changed: str) -> np.ndarray:
    photo = ("predict", str(ROOT / "docs/street.jpg"), "--weights", "camvid", "-o", str(folder / "out"))
    _run([*command, *photo], folder, **changed)
    (mask,) = (path for path in (folder / "out").glob("*.png") if "overlay" not in path.name)
    return np.asarray(Image.open(mask))


def _run(command: list[str], folder: Path, **changed: str) -> str:
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "SEGNEXT_"))}
    done = subprocess.run(
        command, cwd=folder, env=environment | changed, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> np.ndarray:
    """Return the mask that this checkout computes."""
    code = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r}); from segnext.__main__ import main; sys.exit(main())"
    )
    return _mask([sys.executable, "-c", code], tmp_path_factory.mktemp("expected"))


@pytest.mark.parametrize("kind", ["wheel", "sdist"])
def test_installs_and_predicts_where_nothing_compiles(
    kind: str, files: dict[str, Path], expected: np.ndarray, tmp_path: Path
) -> None:
    environment = tmp_path / "environment"
    _run([sys.executable, "-m", "venv", "--without-pip", str(environment)], tmp_path)
    python = environment / "bin/python"
    # torch and the rest come from this environment, without its own segnext: .pth files there are not read
    (site,) = environment.glob("lib/python*/site-packages")
    (site / "rest.pth").write_text("\n".join(path for path in sys.path if path.endswith("-packages")))
    bare = {"PATH": str(environment / "bin"), "CUDA_HOME": str(tmp_path)}
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", str(python), "install"]
    options = ["--no-deps", "--no-index", "--no-build-isolation", "--ignore-installed"]
    _run([*pip, *options, str(files[kind])], tmp_path, **bare)
    segnext = [str(environment / "bin/segnext")]
    assert _run([*segnext, "--version"], tmp_path, **bare) == f"segnext {__version__}\n"
    where = [
        str(python),
        "-c",
        "import segnext, segnext_kernels as k; print(segnext.__file__, k.__version__)",
    ]
    file, version = _run(where, tmp_path, **bare).split()
    assert Path(file).is_relative_to(site) and version == __version__
    kernels = re.search(r"^ +cpu +(.+)$", _run([*segnext, "doctor"], tmp_path, **bare), re.MULTILINE)
    assert kernels is not None
    assert kernels[1].startswith(
        "available, uses " if kind == "wheel" else "the compiled library is missing (no C++ compiler found"
    )
    mask = _mask(segnext, tmp_path, **bare)
    assert mask.shape == expected.shape
    assert (mask == expected).mean() > 0.999
