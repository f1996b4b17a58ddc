"""Runs the C++ runtime under AddressSanitizer, LeakSanitizer and UndefinedBehaviorSanitizer."""

from __future__ import annotations

import platform
import random
import subprocess
from pathlib import Path

import pytest

from segnext import deploy
from tests import summary
from tests.models.narrow import used
from tests.runtime import built, files

pytestmark = [
    pytest.mark.proof,
    pytest.mark.skipif(built.missing() is not None, reason=built.missing() or ""),
]
SET = "generic" if platform.machine() == "x86_64" else "all"
FLAGS = "-g1 -fno-omit-frame-pointer -fsanitize=address,undefined -fno-sanitize-recover=undefined"
NETWORKS = {
    "published": {},
    "other": dict(strips=(3, 9), root=7, in_indices=(0, 2), context=None, num_classes=300),
    "threshold": dict(num_classes=2, threshold=0.3, decoder="cnn"),
}


@pytest.fixture(scope="module")
def program() -> Path:
    """Build the program that opens files, not optimised: that takes minutes under sanitizers.

    One instruction set is enough: `tests/kernels/cpu/test_sanitizers.py` runs the kernels of all.
    """
    options = {"SEGNEXT_INSTRUCTION_SETS": SET, "SEGNEXT_EXAMPLES": "OFF"}
    folder = built.build("sanitised", CMAKE_CXX_FLAGS_RELEASE=f"-O0 {FLAGS}", **options)
    target = folder / "open_each"
    compiled(Path(__file__).with_name("open_each.cpp"), target, folder)
    return target


def compiled(source: Path, target: Path, folder: Path) -> None:
    """Build a program against the sanitised library in ``folder``."""
    words = [*built.COMPILER.split(), "-std=c++17", *FLAGS.split(), f"-I{built.ROOT / 'csrc' / 'runtime'}"]
    built.run(*words, source, "-L", folder, f"-Wl,-rpath,{folder}", "-lsegnext", "-o", target)


def run(program: Path, *paths: Path, **environment: str) -> list[str]:
    """Return the lines of the program, two per file; a sanitizer's report fails the test."""
    lines = built.run(program, *paths, **environment).splitlines()
    assert len(lines) == 2 * len(paths), lines[-5:]
    return lines


def test_networks(program: Path, tmp_path: Path) -> None:
    paths = []
    for name, fields in NETWORKS.items():
        paths.append(tmp_path / f"{name}.safetensors")
        deploy(used(**fields)).save(paths[-1])
    assert run(program, *paths) == ["0 "] * 2 * len(paths)


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


def test_sanitizers_see_an_image_read_past_its_end(program: Path, tmp_path: Path) -> None:
    """The machinery itself works: an image that is shorter than its size says is reported."""
    text, right = Path(__file__).with_name("open_each.cpp").read_text(), "kHeight * kWidth * channels, 100"
    assert right in text
    (tmp_path / "broken.cpp").write_text(text.replace(right, "kHeight * kWidth * channels - 1, 100"))
    compiled(tmp_path / "broken.cpp", tmp_path / "broken", program.parent)
    deploy(used()).save(tmp_path / "model.safetensors")
    command = [tmp_path / "broken", tmp_path / "model.safetensors"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode != 0 and "heap-buffer-overflow" in done.stderr and "normalise" in done.stderr
