"""Compiles the library `_C`: C++ once per instruction set, CUDA where nvcc is asked for. Used by setup.py."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

from sources import bindings

CSRC = Path(__file__).resolve().parent
COMPILE_FLAGS = [
    "-std=c++17",
    "-O3",
    "-fPIC",
    "-fvisibility=hidden",
    "-ffp-contract=fast",
    "-Wall",
    "-Wextra",
]
NVCC_FLAGS = ["-std=c++17", "-O3", "-Xcompiler=-fPIC,-fvisibility=hidden", "--threads=1"]
AVX512 = ["-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq", "-mfma"]
INSTRUCTION_SETS = {
    "generic": [],
    "avx2": ["-mavx2", "-mfma"],
    "avx512": AVX512,
    "avx512bf16": [*AVX512, "-mavx512bf16"],
    "amx": [*AVX512, "-mavx512bf16", "-mamx-tile", "-mamx-bf16"],
}
ARM_INSTRUCTION_SETS = {"neon": [], "neonbf16": ["-march=armv8.2-a+bf16"]}
# The header of an op whose CPU kernels have a build for float64 declares them with this macro of csrc/common/isa.h.
FLOAT64 = "SEGNEXT_FOR_EACH_ISA_AND_FLOAT64"
# A compiler defines these macros for a machine that has the instruction set.
MACROS = {
    "avx2": "__AVX2__",
    "avx512": "__AVX512DQ__",
    "avx512bf16": "__AVX512BF16__",
    "amx": "__AMX_?BF16__",
}
ARM_MACROS = {"neon": "__ARM_NEON", "neonbf16": "__ARM_FEATURE_BF16_VECTOR_ARITHMETIC"}
# Programs by which an instruction set is tried: the assembler must know AMX too.
EMPTY = "int main() {}\n"
PROBES = {"amx": 'int main() { asm volatile("tilerelease"); }\n'}
DEFAULT_ARCHITECTURES = ["8.0", "9.0+PTX"]


class BuildError(RuntimeError):
    """A part cannot be built; the message is one line."""


def output_of(*command: str) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError) as error:
        raise BuildError(f"`{' '.join(command)}` failed: {error}") from error


def find_compiler() -> str:
    named = os.environ.get("CXX")
    candidates = [named] if named else ["g++", "c++", "clang++"]
    for name in candidates:
        if shutil.which(name.split()[0]):
            return name
    raise BuildError(f"no C++ compiler found (looked for {', '.join(candidates)})")


def find_nvcc() -> str:
    home = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH")
    candidates = [f"{home}/bin/nvcc" if home else None, shutil.which("nvcc"), "/usr/local/cuda/bin/nvcc"]
    for candidate in candidates:
        if candidate and Path(candidate).exists():
            return candidate
    raise BuildError("nvcc not found (looked in $CUDA_HOME, PATH, /usr/local/cuda)")


def cuda_home(nvcc: str) -> Path:
    """Return the toolkit of an nvcc, as nvcc itself reports it: the one on the PATH may be a wrapper."""
    dry_run = subprocess.run(
        [nvcc, "--dryrun", "-x", "cu", os.devnull], capture_output=True, text=True
    ).stderr
    top = re.search(r"^#\$ TOP=(.+)$", dry_run, re.MULTILINE)
    return Path(top[1]).resolve() if top else Path(nvcc).resolve().parents[1]


def visible_gpus() -> list[str]:
    """Return the compute capability of each GPU that the driver shows, as "9.0"."""
    try:
        return output_of("nvidia-smi", "--query-gpu=compute_cap", "--format=csv,noheader").split()
    except BuildError:
        return []


def architectures(nvcc: str) -> list[str]:
    """Return the compute capabilities to build for, as "8.0" or "9.0+PTX"."""
    known = {
        f"{m[1]}.{m[2]}" for m in re.finditer(r"compute_(\d+)(\d)\b", output_of(nvcc, "--list-gpu-arch"))
    }
    wanted = os.environ.get("TORCH_CUDA_ARCH_LIST", "").replace(";", " ").split()
    if wanted:
        unknown = [name for name in wanted if name.removesuffix("+PTX") not in known]
        if unknown:
            raise BuildError(f"TORCH_CUDA_ARCH_LIST names {', '.join(unknown)}, which {nvcc} does not know")
        return wanted
    chosen = sorted(set(visible_gpus()) & known) or [
        a for a in DEFAULT_ARCHITECTURES if a.removesuffix("+PTX") in known
    ]
    if not chosen:
        raise BuildError(f"{nvcc} knows none of {', '.join(DEFAULT_ARCHITECTURES)}; set TORCH_CUDA_ARCH_LIST")
    return chosen


def architecture_flags(names: list[str]) -> list[str]:
    flags = []
    for name in names:
        number = name.removesuffix("+PTX").replace(".", "")
        flags.append(f"-gencode=arch=compute_{number},code=sm_{number}")
        if name.endswith("+PTX"):
            flags.append(f"-gencode=arch=compute_{number},code=compute_{number}")
    return flags


def can_compile(part: str) -> bool:
    """Return whether there is a compiler for "cpu" or "cuda"."""
    try:
        return bool(find_nvcc() if part == "cuda" else find_compiler())
    except BuildError:
        return False


def jobs() -> int:
    """Return how many jobs cores and free memory allow: a heavy translation unit takes up to 2 GiB."""
    if os.environ.get("MAX_JOBS"):
        return max(1, int(os.environ["MAX_JOBS"]))
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        free_gib = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    except (ValueError, OSError):
        free_gib = 4.0
    return max(1, min(cores, int(free_gib / 2)))


def refusal(compiler: str, flags: list[str], code: str) -> str | None:
    """Return what the compiler says against a program; None if it builds it."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "probe.cpp"
        source.write_text(code)
        # linking too: clang takes -fopenmp where LLVM's runtime is not installed
        command = [*compiler.split(), *flags, str(source), "-o", str(source.with_suffix(""))]
        done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode == 0:
        return None
    first = re.search(r"^.*\b(?:error|cannot find)\b.*$", done.stderr, re.MULTILINE | re.IGNORECASE)
    return first[0].strip() if first else f"exit status {done.returncode}"


def instruction_sets(
    compiler: str, native_only: bool = False
) -> tuple[dict[str, list[str]], list[str], dict[str, str]]:
    """Return the instruction sets to build, name to compiler flags: those named, this machine's best, or all.

    Also the macros that csrc/common/isa.h wants, and the sets that the compiler does not know, with what it says.
    """
    machine = output_of(*compiler.split(), "-dumpmachine").split("-")[0]  # that the compiler compiles for
    if machine in ("x86_64", "amd64"):
        family, known, macros, native = "X86", INSTRUCTION_SETS, MACROS, "-march=native"
    elif machine in ("aarch64", "arm64"):
        family, known, macros, native = "ARM", ARM_INSTRUCTION_SETS, ARM_MACROS, "-mcpu=native"
    else:
        return {"generic": []}, [], {}
    chosen = known
    if native_only:
        here = output_of(*compiler.split(), native, "-dM", "-E", "-x", "c++", os.devnull)
        has = {name for name in macros if re.search(rf"^#define {macros[name]} ", here, re.MULTILINE)}
        best = max(has, key=list(known).index, default=next(iter(known)))
        # what AMX does not multiply runs on the vectors beside it
        wanted = ("avx512bf16", "amx") if best == "amx" else (best,)
        chosen = {name: known[name] for name in wanted}
    if named := os.environ.get("SEGNEXT_INSTRUCTION_SETS", "").replace(";", " ").split():
        if unknown := [name for name in named if name not in known]:
            raise BuildError(
                f"SEGNEXT_INSTRUCTION_SETS must name some of {', '.join(known)}, got {', '.join(unknown)}"
            )
        chosen = {name: flags for name, flags in known.items() if name in named}
    said = {
        name: refusal(compiler, flags, PROBES.get(name, EMPTY)) for name, flags in chosen.items() if flags
    }
    refused = {name: text for name, text in said.items() if text is not None}
    chosen = {name: flags for name, flags in chosen.items() if name not in refused}
    if not chosen:
        raise BuildError(f"{compiler} knows none of {', '.join(refused)}; name another instruction set")
    left_out = [f"-DSEGNEXT_WITHOUT_{name.upper()}" for name in known if name not in ("generic", *chosen)]
    fallback = [] if "generic" in chosen else [f"-DSEGNEXT_FALLBACK={next(iter(chosen))}"]
    return chosen, [f"-DSEGNEXT_{family}", *left_out, *fallback], refused


def openmp_gap(compiler: str) -> str | None:
    """Return why this compiler builds no OpenMP, as Apple's clang does not; None if it does."""
    said = refusal(
        compiler, ["-fopenmp"], "#include <cstdlib>\nint main() {\n#pragma omp parallel\n  std::abort();\n}\n"
    )
    return None if said is None else f"{compiler} refuses -fopenmp ({said}); the kernels run on one thread"


class Ninja:
    """The build.ninja of one library."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.lines: list[str] = []
        self.objects: list[str] = []

    def rule(self, name: str, command: str) -> None:
        self.lines += [f"rule {name}", f"  command = {command}", "  description = $out"]
        if "$out.d" in command:
            self.lines += ["  depfile = $out.d", "  deps = gcc"]

    def compile(self, rule: str, source: Path, suffix: str, flags: list[str]) -> None:
        name = source.relative_to(CSRC) if source.is_relative_to(CSRC) else Path(source.name)
        target = f"{name.with_suffix('')}{suffix}.o".replace(os.sep, "_")
        words = " ".join(map(shlex.quote, flags)).replace("$", "$$")
        self.lines += [f"build {target}: {rule} {escaped(source)}", f"  flags = {words}"]
        self.objects.append(target)

    def link(self, target: Path) -> None:
        self.lines += [f"build {escaped(target)}: link {' '.join(self.objects)}"]

    def run(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "build.ninja").write_text("\n".join(self.lines) + "\n")
        command = [ninja_program(), "-j", str(jobs())]
        said = []
        with subprocess.Popen(
            command, cwd=self.folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        ) as ninja:
            for line in ninja.stdout or ():
                said.append(line)
                is_progress = sys.stdout.isatty() and re.match(r"\[\d+/\d+\] ", line)
                print("\r\033[K" + line.rstrip() if is_progress else line, end="", flush=True)
        if sys.stdout.isatty():
            print()
        if ninja.returncode:
            first = re.search(r"^.*\b(?:error|fatal)\b.*$", "".join(said), re.MULTILINE | re.IGNORECASE)
            raise BuildError((first[0] if first else "ninja failed").strip())


def escaped(path: Path) -> str:
    """Return a path as ninja reads it; ninja itself quotes it for the shell."""
    if any(letter in str(path) for letter in "\n\r|"):
        raise BuildError(f"ninja takes no path with a line break or |: {str(path)!r}; move the checkout")
    return str(path).replace("$", "$$").replace(" ", "$ ").replace(":", "$:")


def quoted(word: str | Path) -> str:
    """Return a word of a ninja rule's command that the shell takes as one."""
    return shlex.quote(str(word)).replace("$", "$$")


def ninja_program() -> str:
    try:
        from ninja import BIN_DIR

        return str(Path(BIN_DIR) / "ninja")
    except ImportError:
        found = shutil.which("ninja")
        if found is None:
            raise BuildError("ninja not found (`pip install ninja`)") from None
        return found


def build_library(
    target: Path, folder: Path, version: str, with_cuda: bool, native_only: bool
) -> dict[str, object]:
    """Compile and link one library in ``folder``; returns what was built.

    Args:
        version: of the Python that calls the library, which refuses one of another version.
        native_only: build the CPU kernels for this machine's best instruction set alone.
    """
    compiler = find_compiler()
    without_openmp = openmp_gap(compiler)
    openmp = "-Wno-unknown-pragmas" if without_openmp else "-fopenmp"
    ninja = Ninja(folder)
    includes = [f"-I{CSRC}", "-isystem", sysconfig.get_path("include")]
    extra = os.environ.get("CXXFLAGS", "")
    ninja.rule("cxx", f"{compiler} -MMD -MF $out.d {' '.join(COMPILE_FLAGS)} {extra} $flags -c $in -o $out")
    isas, shared, refused = instruction_sets(compiler, native_only)
    sources = sorted(CSRC.glob("ops/*/*_cpu.cpp"))
    for name, flags in isas.items():
        for source in sources:
            ninja.compile(
                "cxx", source, f".{name}", [includes[0], openmp, *shared, *flags, f"-DSEGNEXT_ISA={name}"]
            )
    float64_flags = ["-DSEGNEXT_FLOAT64", "-DSEGNEXT_ISA=float64"]
    for source in sources:
        if any(FLOAT64 in header.read_text() for header in source.parent.glob("*.h")):
            ninja.compile("cxx", source, ".float64", [includes[0], openmp, *shared, *float64_flags])
    for source in sorted(CSRC.glob("common/*.cpp")):
        ninja.compile("cxx", source, "", [includes[0], *shared])
    parts = ["-DSEGNEXT_WITH_CPU", *(["-DSEGNEXT_WITH_CUDA"] if with_cuda else [])]
    parts.append(f'-DSEGNEXT_VERSION="{version}"')
    source = bindings(folder, CSRC / "module.cpp")
    ninja.compile("cxx", source, "", [*includes, *shared, *parts])
    # No OpenMP library is linked: the one that `import torch` has loaded is used, so there is one thread pool. Python's
    # own symbols are open too, which macOS allows only where it is asked to.
    libraries = ""
    kind = "-bundle -undefined dynamic_lookup" if sys.platform == "darwin" else "-shared"
    built: dict[str, object] = {
        "compiler": output_of(*compiler.split(), "--version").splitlines()[0],
        "flags": " ".join([*COMPILE_FLAGS, *extra.split()]),
        "instruction_sets": list(isas),
        "instruction_sets_left_out": refused,
        "openmp": f"left out: {without_openmp}" if without_openmp else "used",
        "cuda": None,
    }
    if without_openmp:
        print(f"segnext: OpenMP was left out: {without_openmp}", file=sys.stderr)
    if with_cuda:
        nvcc = find_nvcc()
        home, names = cuda_home(nvcc), architectures(nvcc)
        flags = [*NVCC_FLAGS, *architecture_flags(names)]
        ninja.rule("nvcc", f"{quoted(nvcc)} -MMD -MF $out.d {' '.join(flags)} $flags -c $in -o $out")
        for source in sorted(CSRC.rglob("*.cu")):
            ninja.compile("nvcc", source, ".cuda", [f"-I{CSRC}"])
        # With the static runtime, the library loads on machines without a GPU or a driver.
        libraries = f"-L{quoted(home / 'lib64')} -L{quoted(home / 'lib')} -lcudart_static -ldl -lrt -lpthread"
        release = re.search(r"release ([\d.]+)", output_of(nvcc, "--version"))
        built["cuda"] = {
            "nvcc": release[1] if release else "?",
            "flags": " ".join(NVCC_FLAGS),
            "architectures": names,
        }
    more = os.environ.get("LDFLAGS", "")
    ninja.rule("link", f"{compiler} {kind} {extra} $in -o $out {libraries} {more}")
    target.parent.mkdir(parents=True, exist_ok=True)
    ninja.link(target)
    ninja.run()
    return built
