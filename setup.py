"""Builds segnext_kernels._C: C++ once per instruction set, CUDA where nvcc is found; neither needs torch.

SEGNEXT_BUILD=auto (default)  all that this machine can build; each part left out is recorded with the reason
              native          only what this machine can run: its own instruction set, CUDA where a GPU is visible
              cpu | cuda      exactly this; an error if it cannot be built
              off             pure Python
SEGNEXT_INSTRUCTION_SETS="avx2;avx512" builds the CPU kernels for these alone.
SEGNEXT_VERSION_LABEL=cu130 makes a wheel of version 0.1.0+cu130, which tells it from others of the same version.
TORCH_CUDA_ARCH_LIST, CUDA_HOME, CXX, CXXFLAGS, LDFLAGS and MAX_JOBS are read as PyTorch's extensions read them.
The record of the build lies beside the library and is shown by `segnext doctor`.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import sysconfig
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
VERSION_FILE = Path("segnext_kernels") / "VERSION"
sys.path.insert(0, str(ROOT / "csrc"))  # an isolated build does not have it on its path
from compilation import BuildError, build_library, can_compile, visible_gpus  # noqa: E402
from sources import digest  # noqa: E402

MODES = ("auto", "native", "cpu", "cuda", "off")
# A free-threaded CPython has no stable ABI: there the library serves this version alone.
STABLE_ABI = not sysconfig.get_config_var("Py_GIL_DISABLED")


class BuildKernels(build_ext):
    """setuptools' build_ext with the building replaced."""

    def build_extension(self, ext: Extension) -> None:
        target = Path(self.get_ext_fullpath(ext.name)).resolve()
        # setuptools builds an editable install in a temporary folder. This one stays: its objects serve the next build.
        kept = ROOT / "build" / f"editable-{sysconfig.get_platform()}"
        folder = (kept if self.editable_mode else Path(self.build_temp).resolve()) / "csrc"
        remove_libraries(target.parent)  # one of an earlier build must not be shipped if this one fails
        skipped: dict[str, str] = {}
        failed: list[str] = []  # left out although there is a compiler: the first use warns of it
        built: dict[str, object] = {}

        def build(with_cuda: bool) -> dict[str, object]:
            return build_library(target, folder, VERSION, with_cuda, native_only=MODE == "native")

        if MODE == "cuda":
            built = build(with_cuda=True)
        elif MODE == "cpu":
            built = build(with_cuda=False)
            skipped["cuda"] = "left out by SEGNEXT_BUILD=cpu"
        else:
            for part, with_cuda in (("cuda", True), ("cpu", False)):
                if with_cuda and MODE == "native" and not visible_gpus():
                    skipped[part] = "SEGNEXT_BUILD=native sees no GPU"
                    continue
                try:
                    built = build(with_cuda)
                    break
                except BuildError as error:
                    skipped[part] = str(error)
                    if can_compile(part):
                        failed.append(part)
                    print(f"segnext: built without {part}: {error}", file=sys.stderr)
        record = {"mode": MODE, **built, "sources": digest(), "skipped": skipped, "failed": failed}
        record_path = target.with_name("_build.json")
        record_path.parent.mkdir(parents=True, exist_ok=True)
        record_path.write_text(json.dumps(record, indent=2) + "\n")

    def copy_extensions_to_source(self) -> None:
        """Copy the library, if one was built, and its record, for `pip install -e .`."""
        package = ROOT / "segnext_kernels"
        for ext in self.extensions:
            target = Path(self.get_ext_fullpath(ext.name)).resolve()
            built = ROOT / self.build_lib / "segnext_kernels"
            remove_libraries(package)
            for name in (target.name, "_build.json"):
                (package / name).unlink(missing_ok=True)
                if (built / name).exists():
                    shutil.copyfile(built / name, package / name)

    def get_outputs(self) -> list[str]:
        return [path for path in super().get_outputs() if Path(path).exists()]


class BuildPython(build_py):
    """setuptools' build_py; the installed file has the version with its label."""

    def run(self) -> None:
        super().run()
        if not self.editable_mode:
            (Path(self.build_lib) / VERSION_FILE).write_text(f"{VERSION}\n")


def remove_libraries(folder: Path) -> None:
    """Remove libraries of all names: Python would prefer one that is named after its version to a new one."""
    for library in folder.glob("_C.*so"):
        library.unlink()


MODE = os.environ.get("SEGNEXT_BUILD") or "auto"
if MODE not in MODES:
    raise SystemExit(f"SEGNEXT_BUILD must be one of {', '.join(MODES)}, got {MODE!r}")
LABEL = os.environ.get("SEGNEXT_VERSION_LABEL", "")
VERSION = (ROOT / VERSION_FILE).read_text().strip() + (f"+{LABEL}" if LABEL else "")

setup(
    version=VERSION,
    ext_modules=[]
    if MODE == "off"
    else [Extension("segnext_kernels._C", sources=[], py_limited_api=STABLE_ABI)],
    cmdclass={"build_ext": BuildKernels, "build_py": BuildPython},
    options={"bdist_wheel": {"py_limited_api": "cp310"}} if STABLE_ABI else {},
)
