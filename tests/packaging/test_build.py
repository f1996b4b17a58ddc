"""Tests building and installing: what each SEGNEXT_BUILD makes, what it says when it cannot, what runs afterwards.

One isolated build with a compiler serves most tests; the others build without one, in seconds.
"""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

from segnext_kernels import native
from segnext_kernels.native import INSTRUCTION_SETS

ROOT = Path(__file__).resolve().parents[2]
SOURCES = (
    *("setup.py", "pyproject.toml", "constraints.txt", "MANIFEST.in", "README.md", "LICENSE", "Makefile"),
    *("csrc", "segnext", "segnext_kernels"),
)
BUILT = shutil.ignore_patterns("*.so", "_build.json", "__pycache__")
EXTENSION = "_C.abi3.so"
RECORD = "segnext_kernels/_build.json"
INSTALLED = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}

compiles = pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")


def run(*command: str | Path, cwd: Path, **changed: str) -> subprocess.CompletedProcess[str]:
    """Run a command without this process's PYTHONPATH, so that nothing comes from the checkout by accident."""
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "SEGNEXT_BACKEND", "CXX")}
    return subprocess.run(
        [str(word) for word in command],
        cwd=cwd,
        env=environment | changed,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=1800,
    )


def python(code: str, *paths: Path, cwd: Path, **changed: str) -> str:
    """Return what a program prints that sees the packages in `paths` and no editable install of this checkout."""
    where = os.pathsep.join(map(str, (*paths, *INSTALLED)))
    done = run(sys.executable, "-S", "-c", code, cwd=cwd, PYTHONPATH=where, **changed)  # -S: no .pth files
    assert done.returncode == 0, done.stdout
    return done.stdout.strip()


def build_wheel(
    source: Path, out: Path, *options: str, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Build a wheel as pip does, but unoptimised: in a fifth of the time, and no test here asks for speed."""
    environment.setdefault("CXXFLAGS", "-O0")
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "wheel", "--no-deps", "-v")
    return run(*pip, *options, "-w", out, source, cwd=out.parent, **environment)


def unpacked(folder: Path) -> Path:
    """Unpack the one wheel of a folder and return where; for imports this is as good as installed."""
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


def names(site: Path) -> set[str]:
    return {path.relative_to(site).as_posix() for path in site.rglob("*") if path.is_file()}


def library(site: Path) -> Path:
    return site / "segnext_kernels" / EXTENSION


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Return a copy of what a clean checkout builds from."""
    target = tmp_path / "source"
    target.mkdir()
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, target / name, ignore=BUILT)
        else:
            shutil.copy(ROOT / name, target / name)
    return target


@pytest.fixture
def no_compiler(tmp_path: Path) -> dict[str, str]:
    """Return variables of an environment in which nothing compiles."""
    (tmp_path / "empty").mkdir()
    return {"PATH": str(tmp_path / "empty"), "CUDA_HOME": str(tmp_path / "empty")}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the project as pip builds it from the sdist: isolated, without torch, CUDA wanted in vain."""
    folder = tmp_path_factory.mktemp("isolated")
    source = folder / "source"
    shutil.copytree(
        ROOT, source, ignore=shutil.ignore_patterns(".*", "build", "out", "runs", "*.so", "_build.json")
    )
    make_sdist = "from setuptools.build_meta import build_sdist; build_sdist('..')"
    done = run(sys.executable, "-c", make_sdist, cwd=source)
    assert done.returncode == 0, done.stdout
    shutil.rmtree(source)
    (sdist,) = folder.glob("*.tar.gz")
    # No nvcc knows this architecture, so CUDA cannot be built with or without a toolkit.
    done = build_wheel(sdist, folder / "wheel", SEGNEXT_BUILD="auto", TORCH_CUDA_ARCH_LIST="1.0")
    assert done.returncode == 0, done.stdout
    return unpacked(folder / "wheel")


@pytest.mark.proof
@compiles
def test_isolated_build_from_the_sdist_is_complete(site: Path) -> None:
    assert library(site).exists()
    expected = {"segnext/py.typed", "segnext_kernels/py.typed", RECORD}
    for folder in ("segnext", "segnext_kernels"):
        package = ROOT / folder
        shipped = [
            *package.rglob("*.py"),
            *package.glob("weights/*.safetensors"),
            *package.glob("weights/*.md"),
            *package.glob("data/sets/*.yaml"),
        ]
        expected |= {path.relative_to(ROOT).as_posix() for path in shipped}
    assert expected <= names(site)
    top = {name.split("/")[0] for name in names(site)}
    assert top == {"segnext", "segnext_kernels", next(name for name in top if name.endswith(".dist-info"))}


@pytest.mark.proof
@compiles
def test_auto_leaves_out_cuda_and_records_why(site: Path) -> None:
    record = json.loads((site / RECORD).read_text())
    assert record["mode"] == "auto" and record["cuda"] is None
    assert record["instruction_sets"][0] in ("generic", "neon")
    assert list(record["skipped"]) == ["cuda"]
    assert "nvcc" in record["skipped"]["cuda"]
    code = "from segnext_kernels.native import missing; print(missing('cpu')); print(missing('cuda'))"
    cpu, cuda = python(code, site, cwd=site.parent).splitlines()
    assert cpu == "None"
    assert cuda.startswith("built without CUDA (") and "SEGNEXT_BUILD=cuda pip install ." in cuda


@pytest.mark.proof
@compiles
def test_installed_package_works_from_another_folder(site: Path, tmp_path: Path) -> None:
    code = (
        "from segnext import segnext_b; m = segnext_b(num_classes=150)\n"
        "print(sum(p.numel() for p in m.parameters()))"
    )
    assert python(code, site, cwd=tmp_path) == "27636310"
    code = (
        "import torch, segnext_kernels as k; logits = torch.randn(1, 5, 4, 6)\n"
        "print(k.choose('upsample_argmax', logits, [9, 7]), k.__file__)\n"
        "k.upsample_argmax(logits, (9, 7))"
    )
    backend, where = python(code, site, cwd=tmp_path).split(maxsplit=1)
    assert backend == "cpu" and Path(where).is_relative_to(site)


@pytest.mark.proof
@compiles
def test_library_links_neither_torch_nor_openmp(site: Path) -> None:
    if shutil.which("readelf") is None:
        pytest.skip("needs readelf")
    dynamic = run("readelf", "-d", library(site), cwd=site).stdout
    needed = re.findall(r"NEEDED.*\[(.+)\]", dynamic)
    assert needed and not [name for name in needed if re.search("torch|c10|cuda|omp", name)]


@pytest.mark.proof
@compiles
def test_library_shares_the_openmp_runtime_of_torch(site: Path, tmp_path: Path) -> None:
    code = (
        "import re, torch\n"
        "def runtimes():\n"
        "    maps = open('/proc/self/maps').read()\n"
        "    return sorted(set(re.findall(r'/\\S*/lib(?:gomp|omp|iomp)[^/\\s]*', maps)))\n"
        "of_torch = runtimes()\n"
        "import segnext_kernels as k\n"
        "with k.use_backend('cpu'): k.upsample_argmax(torch.randn(2, 5, 64, 64), (512, 512))\n"
        "print(len(of_torch), runtimes() == of_torch)"
    )
    if not Path("/proc/self/maps").exists():
        pytest.skip("needs /proc")
    assert python(code, site, cwd=tmp_path) == "1 True"


@pytest.mark.proof
@compiles
def test_library_falls_back_on_the_openmp_of_the_system(site: Path, tmp_path: Path) -> None:
    # An empty module stands in for a torch whose OpenMP runtime others cannot see.
    code = (
        "import sys, types\n"
        "torch = sys.modules['torch'] = types.ModuleType('torch'); torch.__getattr__ = str\n"
        "package = sys.modules['segnext_kernels'] = types.ModuleType('segnext_kernels')\n"
        f"package.__path__ = [{str(site / 'segnext_kernels')!r}]\n"
        "from segnext_kernels import native\n"
        "print(native._C is not None, 'libgomp' in open('/proc/self/maps').read(), native.missing('cpu'))"
    )
    assert python(code, site, cwd=tmp_path) == "True True None"


@pytest.mark.proof
@compiles
def test_damaged_library_is_reported_and_the_reference_serves(site: Path, tmp_path: Path) -> None:
    shutil.copytree(
        site / "segnext_kernels", tmp_path / "segnext_kernels", ignore=shutil.ignore_patterns("*.so")
    )
    library(tmp_path).write_text("no library")
    code = (
        "import torch, segnext_kernels as k; logits = torch.randn(1, 5, 4, 6)\n"
        "print(k.upsample_argmax(logits, (9, 7)).sum().item() > 0)\n"
        "print(k.choose('upsample_argmax', logits, [9, 7]))\n"
        "print(k.native.missing('cpu'))"
    )
    first, second, third = python(code, tmp_path, cwd=tmp_path).splitlines()
    assert (first, second) == ("True", "reference")
    assert (
        third.startswith("the compiled library is missing (") and "_C" in third and "pip install ." in third
    )


@compiles
@pytest.mark.skipif(platform.machine() != "x86_64", reason="needs x86-64")
def test_what_an_older_compiler_does_not_know_is_left_out(tmp_path: Path) -> None:
    """GCC 10 has no AMX, GCC 9 no AVX512-BF16 either: the library is built without them, and the record says so."""
    compiler = tmp_path / "g++-10"
    refusal = "g++: error: unrecognized command-line option '-mamx-tile'"
    compiler.write_text(
        f'#!/bin/sh\ncase " $* " in *" -mamx-tile "*) echo "{refusal}" >&2; exit 1;; esac\nexec g++ "$@"\n'
    )
    compiler.chmod(0o755)
    code = (
        "import json, sys; sys.path.insert(0, 'csrc'); import compilation\n"
        "sets, macros, refused = compilation.instruction_sets(sys.argv[1])\n"
        "print(json.dumps([list(sets), macros, refused]))"
    )
    command = [sys.executable, "-c", code, str(compiler)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    built, macros, refused = json.loads(done.stdout)
    assert built == ["generic", "avx2", "avx512", "avx512bf16"] and refused == {"amx": refusal}
    assert macros == ["-DSEGNEXT_X86", "-DSEGNEXT_WITHOUT_AMX"]


@compiles
@pytest.mark.skipif(platform.machine() != "x86_64", reason="needs x86-64")
@pytest.mark.parametrize(
    ("named", "printed"),
    [
        ("avx2;generic", "['generic', 'avx2'] ['-DSEGNEXT_X86', '-DSEGNEXT_WITHOUT_AVX512', "),
        ("avx2", "['avx2'] ['-DSEGNEXT_X86', '-DSEGNEXT_WITHOUT_AVX512', "),
        ("avx2 avx3", "BuildError: SEGNEXT_INSTRUCTION_SETS must name some of generic, avx2, .*, got avx3"),
    ],
)
def test_instruction_sets_can_be_named(named: str, printed: str) -> None:
    code = (
        "import sys; sys.path.insert(0, 'csrc'); import compilation\n"
        "sets, macros, _ = compilation.instruction_sets(compilation.find_compiler(), True)\n"
        "print(list(sets), macros)"
    )
    environment = {**os.environ, "SEGNEXT_INSTRUCTION_SETS": named}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert re.search(printed, done.stdout + done.stderr) if "Error" in printed else printed in done.stdout


@pytest.mark.proof
@compiles
@pytest.mark.skipif(
    platform.machine() not in ("x86_64", "aarch64"), reason="elsewhere there is one instruction set"
)
def test_native_builds_the_instruction_set_of_this_machine_alone(source: Path, tmp_path: Path) -> None:
    best = INSTRUCTION_SETS[native._C.best_instruction_set()] if native._C is not None else "generic"
    run_build = build_wheel(source, tmp_path / "wheel", "--no-build-isolation", SEGNEXT_BUILD="native")
    assert run_build.returncode == 0, run_build.stdout[-3000:]
    site = unpacked(tmp_path / "wheel")
    record = json.loads((site / RECORD).read_text())
    assert not record["skipped"].get("cpu"), record["skipped"]
    with_tiles = native._C is not None and native.reason_against_tiles() is None
    assert record["instruction_sets"] == [best, *(["amx"] if with_tiles else [])]
    assert record["cuda"] is not None or "sees no GPU" in record["skipped"]["cuda"]
    code = (
        "import torch, segnext_kernels as k; x = torch.randn(1, 8, 5, 6)\n"
        "with k.use_backend('cpu'): print(k.dwconv_gelu(x, torch.randn(8, 1, 3, 3)).shape, k.status().instruction_set)"
    )
    assert python(code, site, cwd=tmp_path) == f"torch.Size([1, 8, 5, 6]) {best}"
    # the record of another machine's native build: the library is not used, and says why
    other = next(name for name in INSTRUCTION_SETS if name != best)
    (site / RECORD).write_text(json.dumps({**record, "instruction_sets": [other]}))
    code = "from segnext_kernels.native import missing; print(missing('cpu'))"
    assert f"built for {other} alone, which this machine does not have" in python(code, site, cwd=tmp_path)


def test_off_builds_pure_python(source: Path, tmp_path: Path) -> None:
    # What an earlier build in the same folder left behind must not be shipped.
    (source / RECORD).write_text('{"mode": "cpu", "skipped": {}}')
    done = build_wheel(source, tmp_path / "wheel", "--no-build-isolation", SEGNEXT_BUILD="off")
    assert done.returncode == 0, done.stdout
    (wheel,) = (tmp_path / "wheel").glob("*.whl")
    assert wheel.name.endswith("-py3-none-any.whl")
    site = unpacked(tmp_path / "wheel")
    assert not library(site).exists() and RECORD not in names(site)
    code = (
        "import torch, segnext_kernels as k; logits = torch.randn(1, 5, 4, 6)\n"
        "print(k.choose('upsample_argmax', logits, [9, 7]))\n"
        "print(k.native.missing('cpu'))\n"
        "from segnext import segnext_t; model = segnext_t(num_classes=3).eval()\n"
        "print(model.predict(torch.randn(1, 3, 40, 33)).shape)"
    )
    backend, missing, shape = python(code, site, cwd=tmp_path).splitlines()
    assert backend == "reference"
    assert missing.startswith("the compiled library is missing (not built)")
    assert shape == "torch.Size([1, 40, 33])"


def test_auto_without_a_compiler_is_pure_python_and_says_why(
    source: Path, tmp_path: Path, no_compiler: dict[str, str]
) -> None:
    stale = source / f"build/lib.{sysconfig.get_platform()}-{sys.implementation.cache_tag}/segnext_kernels"
    stale.mkdir(parents=True)
    (stale / EXTENSION).write_text("of an earlier build")
    done = build_wheel(
        source, tmp_path / "wheel", "--no-build-isolation", SEGNEXT_BUILD="auto", **no_compiler
    )
    assert done.returncode == 0, done.stdout
    assert "built without cpu: no C++ compiler found" in done.stdout
    site = unpacked(tmp_path / "wheel")
    assert not library(site).exists()
    assert set(json.loads((site / RECORD).read_text())["skipped"]) == {"cuda", "cpu"}
    missing = python("from segnext_kernels import native; print(native.missing('cpu'))", site, cwd=tmp_path)
    assert missing.startswith("the compiled library is missing (no C++ compiler found")


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        pytest.param(
            {"SEGNEXT_BUILD": "cpu"}, r"BuildError: no C\+\+ compiler found \(looked for g\+\+", id="cpu"
        ),
        pytest.param(
            {"SEGNEXT_BUILD": "gpu"}, r"SEGNEXT_BUILD must be one of auto, .*, got 'gpu'", id="name"
        ),
    ],
)
def test_named_choice_that_cannot_be_built_is_an_error(
    environment: dict[str, str], message: str, source: Path, tmp_path: Path, no_compiler: dict[str, str]
) -> None:
    done = build_wheel(source, tmp_path / "wheel", "--no-build-isolation", **(no_compiler | environment))
    assert done.returncode != 0
    assert re.search(message, done.stdout)


@compiles
def test_cuda_that_cannot_be_built_is_an_error(source: Path, tmp_path: Path) -> None:
    done = build_wheel(
        source, tmp_path / "wheel", "--no-build-isolation", SEGNEXT_BUILD="cuda", TORCH_CUDA_ARCH_LIST="1.0"
    )
    assert done.returncode != 0
    assert re.search(
        r"BuildError: (nvcc not found|TORCH_CUDA_ARCH_LIST names 1\.0, which .* does not know)", done.stdout
    )


def test_compiler_named_by_the_user_is_never_replaced(source: Path, tmp_path: Path) -> None:
    done = build_wheel(
        source, tmp_path / "wheel", "--no-build-isolation", SEGNEXT_BUILD="cpu", CXX="/nonexistent/cc"
    )
    assert done.returncode != 0
    assert "no C++ compiler found (looked for /nonexistent/cc)" in done.stdout


def test_editable_install_uses_the_sources_in_place(
    source: Path, tmp_path: Path, no_compiler: dict[str, str]
) -> None:
    of_one_version = f"_C{sysconfig.get_config_var('EXT_SUFFIX')}"  # Python would prefer it
    for name in (EXTENSION, of_one_version):
        (source / "segnext_kernels" / name).write_text("of an earlier build")
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--no-deps")
    # Otherwise pip would remove the segnext of the environment that the tests run in.
    options = ("--no-build-isolation", "--ignore-installed", "--prefix", str(tmp_path / "prefix"))
    done = run(*pip, *options, "-e", str(source), cwd=tmp_path, SEGNEXT_BUILD="auto", **no_compiler)
    assert done.returncode == 0, done.stdout
    assert "uninstall" not in done.stdout, done.stdout
    (packages,) = (tmp_path / "prefix").rglob("site-packages")
    code = (
        f"import site; site.addsitedir({str(packages)!r})\n"
        "import segnext_kernels, segnext; from segnext_kernels import native\n"
        "print(segnext.__file__, native._C, native.build_record()['mode'])"
    )
    assert python(code, packages, cwd=tmp_path) == f"{source / 'segnext/__init__.py'} None auto"
    assert not list((source / "segnext_kernels").glob("_C.*"))
    assert (tmp_path / "prefix/bin/segnext").exists()


def test_sources_include_no_torch_header() -> None:
    files = [path for path in (ROOT / "csrc").rglob("*") if path.is_file() and path.suffix != ".pyc"]
    included = {
        (path.name, header)
        for path in files
        for header in re.findall(r'#\s*include\s*[<"]([^>"]+)[>"]', path.read_text())
    }
    assert included
    assert not [pair for pair in included if re.match("torch|ATen|c10|THC", pair[1])]


def test_build_requirements_hold_no_torch() -> None:
    requires = re.search(r"^requires = \[(.*)\]$", (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert requires is not None and "setuptools" in requires[1]
    assert "torch" not in requires[1]
