"""Random image files, whole and damaged: each gives the mask of its pixels, or one line that names it."""

from __future__ import annotations

import os
import resource
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from segnext import Inference, Predictor
from segnext.cli.main import main
from segnext.data.images import ImageError
from segnext.weights import save
from tests.fuzz import pictures
from tests.fuzz.conftest import Fuzzer
from tests.training.runs import narrow

NUMBER = 500  # of special files, and of damaged ones
SECONDS = 20.0
# Bytes above those at the beginning: Pillow's limit is twice its number of pixels, of 4 bytes each. A damaged WebP of
# 495 bytes takes 618 MB before it is refused.
MEMORY = 8 * (Image.MAX_IMAGE_PIXELS or 0) + (100 << 20)
PROGRAMS = ("gs", "gswin64c", "convert", "magick", "djpeg", "ppmtogif")

pytestmark = pytest.mark.filterwarnings(
    "ignore::segnext.data.depth.ImageWarning", "ignore::UserWarning", "ignore::RuntimeWarning"
)


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    return Predictor(narrow().eval(), device="cpu", inference=Inference(short_side=0))


@pytest.fixture
def trap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that exists once anything has called one of the programs that image libraries call."""
    called, programs = tmp_path / "called", tmp_path / "bin"
    programs.mkdir()
    for name in PROGRAMS:
        (programs / name).write_text(f"#!/bin/sh\necho {name} >> '{called}'\n")
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(programs), prepend=os.pathsep)
    return called


def fault(predictor: Predictor, path: Path, expected: np.ndarray | None, *, whole: bool) -> str | None:
    """Predict one file, and say what is wrong with the outcome."""
    begin = time.perf_counter()
    try:
        prediction = predictor(path)
    except ImageError as error:
        message = str(error)
        if not message.startswith(f"{path}: ") or "\n" in message or len(message) > 600:
            return f"not one line about the file: {message[:300]!r}"
        return f"refused: {message}" if whole and expected is not None else None
    if time.perf_counter() - begin > SECONDS:
        return f"{time.perf_counter() - begin:.0f} s"
    if whole and expected is None:
        return f"taken for an image of {prediction.mask.shape}"
    if expected is None:
        return None
    if prediction.image.shape != expected.shape or (prediction.image != expected).any():
        return f"other pixels, {prediction.image.shape} for {expected.shape}"
    if not np.array_equal(prediction.mask, predictor(np.ascontiguousarray(expected)).mask):
        return "another mask than that of the pixels"
    return None


def memory() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def test_special_files(fuzzer: Fuzzer, predictor: Predictor, tmp_path: Path, trap: Path) -> None:
    before = memory()
    for case, rng in fuzzer.cases("image files", NUMBER):
        path, expected = pictures.special(rng, tmp_path)
        fuzzer.check(case, lambda path=path, expected=expected: fault(predictor, path, expected, whole=True))
        path.unlink()
    assert not trap.exists(), f"called: {trap.read_text()}"
    assert memory() - before < MEMORY


def test_damaged_files(fuzzer: Fuzzer, predictor: Predictor, tmp_path: Path, trap: Path) -> None:
    before = memory()
    for case, rng in fuzzer.cases("damaged image files", NUMBER):
        path, _ = pictures.special(rng, tmp_path)
        path.write_bytes(pictures.damage(rng, path.read_bytes()))
        expected = decoded(path)
        fuzzer.check(case, lambda path=path, expected=expected: fault(predictor, path, expected, whole=False))
        path.unlink()
    assert not trap.exists(), f"called: {trap.read_text()}"
    assert memory() - before < MEMORY


def decoded(path: Path) -> np.ndarray | None:
    """Return what Pillow makes of a file of 8-bit gray or RGB; None of any other, or if it refuses."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(path, formats=("PNG", "JPEG", "BMP", "PPM", "WEBP", "QOI")) as image:
                deep = image.tile and ";16" in str(image.tile[0].args)
                if image.mode not in ("L", "RGB") or deep or "transparency" in image.info:
                    return None
                image.load()
                try:
                    return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
                except Exception:
                    return np.asarray(image.convert("RGB"))
    except Exception:
        return None


def test_a_folder_of_all_kinds_is_done_to_its_end(
    fuzzer: Fuzzer, tmp_path: Path, trap: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photos, weights = tmp_path / "photos", tmp_path / "w.safetensors"
    photos.mkdir()
    save(narrow(), weights)
    for case, rng in fuzzer.cases("image files in one folder", 200):
        path, _ = pictures.special(rng, photos)
        if case % 2:
            path.write_bytes(pictures.damage(rng, path.read_bytes()))
        path.rename(photos / f"{case}.png")
    number = len(list(photos.iterdir()))
    with pytest.raises(SystemExit) as exit_:
        main(["predict", str(photos), "-w", str(weights), "-o", str(tmp_path / "out")])
        raise SystemExit(0)
    output = capsys.readouterr()
    masks = len(list((tmp_path / "out").glob("*_mask.png")))
    failures = [line for line in output.err.splitlines() if line.startswith(f"segnext: {photos}")]
    assert masks + len(failures) == number, output.err
    assert exit_.value.code == (1 if failures else 0)
    assert "Traceback" not in output.err and not trap.exists()
