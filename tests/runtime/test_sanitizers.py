"""Runs the C++ runtime under AddressSanitizer, LeakSanitizer and UndefinedBehaviorSanitizer, all its sets linked."""

from __future__ import annotations

import random
import subprocess
from pathlib import Path

import pytest

from segnext import deploy
from segnext_kernels import native
from tests import summary
from tests.models.narrow import used
from tests.runtime import built, files

pytestmark = [
    pytest.mark.proof,
    pytest.mark.skipif(built.missing() is not None, reason=built.missing() or ""),
]
FLAGS = "-g1 -fno-omit-frame-pointer -fsanitize=address,undefined -fno-sanitize-recover=undefined"
NETWORKS = {
    "published": {},
    "other": dict(strips=(3, 9), root=7, in_indices=(0, 2), context=None, num_classes=300),
    "threshold": dict(num_classes=2, threshold=0.3, decoder="cnn"),
}


@pytest.fixture(scope="module")
def program() -> Path:
    """Build the program that opens files; at -O1, for the kernels take minutes to optimise under sanitizers."""
    folder = built.build("sanitised", SEGNEXT_INSTRUCTION_SETS="all", CMAKE_CXX_FLAGS_RELEASE=f"-O1 {FLAGS}")
    source, target = Path(__file__).with_name("open_each.cpp"), folder / "open_each"
    header = built.ROOT / "csrc" / "runtime"
    library = ["-L", folder, f"-Wl,-rpath,{folder}", "-lsegnext"]
    command = [
        *built.COMPILER.split(),
        "-std=c++17",
        *FLAGS.split(),
        f"-I{header}",
        source,
        *library,
        "-o",
        target,
    ]
    built.run(*command)
    return target


def run(program: Path, *paths: Path, **environment: str) -> list[str]:
    """Return the lines of the program, two per file; a sanitizer's report fails the test."""
    lines = built.run(program, *paths, **environment).splitlines()
    assert len(lines) == 2 * len(paths), lines[-5:]
    return lines


@pytest.mark.parametrize("isa", [None, *native.built_sets()])
def test_networks(program: Path, isa: str | None, tmp_path: Path) -> None:
    if isa is not None and (isa == "amx" or isa not in native.runnable_sets()):
        pytest.skip(f"this machine has no {isa}, or it is the best for bfloat16 and runs without a name")
    paths = []
    for name, fields in NETWORKS.items():
        paths.append(tmp_path / f"{name}.safetensors")
        deploy(used(**fields)).save(paths[-1])
    lines = run(program, *paths, **({} if isa is None else {"SEGNEXT_CPU_ISA": isa}))
    assert lines == ["0 "] * len(lines)


def test_hostile_files(program: Path, tmp_path: Path) -> None:
    good, source = files.good(tmp_path / "good.safetensors"), random.Random(1)
    contents = [make(good) for make, _ in files.HOSTILE.values()]
    header = len(good) - len(files.split(good)[1])
    for _ in range(400):
        content = bytearray(good)
        for _ in range(source.choice((1, 3, 30))):
            content[source.randrange(header)] = source.randrange(256)
        contents.append(bytes(content[: source.choice((len(good), source.randrange(len(good))))]))
    paths = [tmp_path / str(number) for number in range(len(contents))]
    for path, content in zip(paths, contents, strict=True):
        path.write_bytes(content)
    lines = run(program, *paths)
    refused = sum(line.startswith(("2 segnext_open: ", "3 segnext_open: ")) for line in lines)
    assert refused > 0.9 * len(lines)
    summary.count("hostile files in C++ under AddressSanitizer and UBSan", len(paths))


def test_sanitizers_see_a_header_read_past_its_end(program: Path, tmp_path: Path) -> None:
    """The machinery itself works: an image that is shorter than its size says is reported."""
    text = Path(__file__).with_name("open_each.cpp").read_text()
    right = "kHeight * kWidth * channels, 100"
    assert right in text
    (tmp_path / "broken.cpp").write_text(text.replace(right, "kHeight * kWidth * channels - 1, 100"))
    library = ["-L", program.parent, f"-Wl,-rpath,{program.parent}", "-lsegnext"]
    header = f"-I{built.ROOT / 'csrc' / 'runtime'}"
    compiler = [*built.COMPILER.split(), "-std=c++17", *FLAGS.split(), header]
    built.run(*compiler, tmp_path / "broken.cpp", *library, "-o", tmp_path / "broken")
    deploy(used()).save(tmp_path / "model.safetensors")
    done = subprocess.run(
        [tmp_path / "broken", tmp_path / "model.safetensors"], capture_output=True, text=True
    )
    assert done.returncode != 0 and "heap-buffer-overflow" in done.stderr and "normalise" in done.stderr
