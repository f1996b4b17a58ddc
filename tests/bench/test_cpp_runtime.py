"""bench.cpp_runtime: a mask that differs gets no time; the time is that of the program's last call."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bench import cpp_runtime
from bench.results import Results, Row, Timing
from bench.roofline import Ceilings
from segnext import deploy
from segnext.data.preprocessing import normalise
from tests.models.narrow import used


def test_another_mask_gets_no_time(tmp_path: Path) -> None:
    fast, pixels = deploy(used()), np.random.default_rng(0).integers(0, 256, (24, 32, 3), np.uint8)
    right = fast.predict(normalise(pixels.copy()))[0].numpy()
    wrong = right.copy()
    wrong[3, 4] += 1
    for mask, path in ((right, tmp_path / "right.pgm"), (wrong, tmp_path / "wrong.pgm")):
        Image.fromarray(mask).save(path)
    cpp_runtime._expect_equal(["true"], tmp_path / "right.pgm", fast, pixels)
    with pytest.raises(ValueError, match="the masks must be equal, got 1 pixels that differ"):
        cpp_runtime._expect_equal(["true"], tmp_path / "wrong.pgm", fast, pixels)


def test_the_last_call_counts() -> None:
    said = "512 x 512 pixels, 11 classes\\n91.5 ms\\n45.25 ms\\n 50.0 % sky\\n"
    assert cpp_runtime._last_call(["printf", said.replace("%", "%%")]) == pytest.approx(0.04525)


def test_table() -> None:
    def timings(**medians: float) -> dict[str, Timing]:
        return {getattr(cpp_runtime, name): Timing(median, 0, 0, 5) for name, median in medians.items()}

    row = Row(
        cpp_runtime.TABLE,
        "T, float32",
        timings(OURS=20, PYTHON=30),
        timings(CPP_PROCESS=25, PYTHON_PROCESS=99),
    )
    header, _, line = cpp_runtime.table(Results({}, Ceilings(1, 1, ()), [row])).splitlines()
    assert header.split("|")[-2].strip() == "Python over C++"
    assert [cell.strip() for cell in line.split("|")[1:-1]] == [
        "T, float32",
        "20.0",
        "30.0",
        "25.0",
        "99.0",
        "1.50",
    ]


def test_without_the_program(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cpp_runtime.main(["--program", "nothing"])
    assert (
        "--program must be the built example, got nothing; docs/cpp.md builds it" in capsys.readouterr().err
    )
