"""`segnext doctor` shows what is here, and names each defect of a data set."""

import dataclasses
import os
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import segnext_kernels
from segnext.cli import doctor
from segnext.cli.main import main
from segnext.data.images import read_image


@pytest.fixture
def run(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")

    def call(*words: object) -> tuple[int, str, str]:
        status = 0
        try:
            main(["doctor", *map(str, words)])
        except SystemExit as exit_:
            status = int(exit_.code or 0)
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return call


def alone(*words: object, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command in a process of its own."""
    return subprocess.run(
        [sys.executable, "-c", "from segnext.cli.main import main; main()", *map(str, words)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **environment},
        capture_output=True,
        text=True,
    )


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Make a healthy data set of two classes: four pairs to train, two to validate; class 1 never occurs in val."""
    for split, count in (("train", 4), ("val", 2)):
        for index in range(count):
            for kind in ("images", "labels"):
                (tmp_path / kind / split).mkdir(parents=True, exist_ok=True)
            label = np.zeros((12, 16), np.uint8)
            label[0] = 255
            if split == "train":
                label[6:] = 1
            Image.new("RGB", (16, 12)).save(tmp_path / "images" / split / f"{index}.jpg")
            Image.fromarray(label).save(tmp_path / "labels" / split / f"{index}.png")
    (tmp_path / "data.yaml").write_text(
        "name: tiny\npath: .\nclasses: [road, sky]\n"
        "train: {images: images/train, labels: labels/train}\nval: {images: images/val, labels: labels/val}\n"
    )
    return tmp_path


class TestMachine:
    def test_every_section_and_version(self, run):
        status, text, errors = run()
        assert (status, errors) == (0, "")
        for section in ("Machine", "Python", "GPU", "Kernels", "Build", "Weights"):
            assert f"{section}\n" in text
        assert torch.__version__ in text

    def test_one_line_per_backend(self):
        lines = dict(doctor.backends())
        assert {"cuda", "triton", "cpu", "reference"} <= set(lines)
        for line in lines.values():
            assert line and "\n" not in line
        for line in lines.values():
            if line.startswith("missing") or "is missing" in line:
                assert "pip install" in line  # the command that would add it

    def test_a_backend_that_is_missing(self, monkeypatch):
        found = segnext_kernels.status()
        missing = found.missing | {"triton": "not installed; pip install triton"}
        monkeypatch.setattr(segnext_kernels, "status", lambda: dataclasses.replace(found, missing=missing))
        assert dict(doctor.backends())["triton"] == "not installed; pip install triton"

    def test_absent_build_record(self, run, monkeypatch, tmp_path):
        from segnext_kernels import native

        monkeypatch.setattr(native, "RECORD", tmp_path / "none.json")
        native.build_record.cache_clear()
        try:
            status, text, _ = run()
        finally:
            native.build_record.cache_clear()
        assert status == 0 and "not built" in text


class TestData:
    def test_healthy(self, run, data):
        status, text, errors = run(data / "data.yaml")
        assert (status, errors) == (0, "")
        assert text.count("nothing wrong") == 2
        assert "pairs: 4; width x height: 16x12 (4)" in text
        assert "  images: 8-bit RGB: 4\n" in text
        assert "tiny train" in text and "tiny val" in text
        assert (
            "41.67 %" in text and "50.00 %" in text and "8.33 %" in text
        )  # road, sky and ignored pixels of train

    def test_limit(self, run, data):
        assert "pairs: 4, 2 of them read" in run(data / "data.yaml", "--limit", 2)[1]

    def test_browse(self, run, data):
        sheet = data / "pictures" / "sheet.png"
        status, text, _ = run(data / "data.yaml", "--browse", sheet)
        assert status == 0 and f"sheet: {sheet}\n" in text
        with Image.open(sheet) as picture:
            assert picture.format == "PNG" and picture.width > 6 * 320
        status, _, errors = run(data / "data.yaml", "--browse", sheet)
        assert status == 1 and f"browse must not exist, got {sheet}; replace it with --overwrite" in errors
        (data / "images" / "train" / "0.jpg").write_bytes(b"")
        status, text, errors = run(data / "data.yaml", "--browse", sheet, "--overwrite")
        assert status == 1 and "sheet: " in text and errors == ""  # drawn, although a file is unreadable
        status, _, errors = run("--browse", sheet)
        assert status == 1 and "--browse must come with a data set" in errors

    def test_unpaired(self, run, data):
        (data / "labels" / "val" / "1.png").unlink()
        status, text, _ = run(data / "data.yaml")
        assert status == 1 and "1.jpg" in text and "partner" in text
        assert text.count("nothing wrong") == 1  # the other split is still examined

    def test_defective_files_and_sizes(self, run, data):
        (data / "images" / "train" / "0.jpg").write_bytes(b"broken")
        Image.fromarray(np.zeros((5, 5), np.uint8)).save(data / "labels" / "train" / "1.png")
        status, text, _ = run(data / "data.yaml")
        assert status == 1
        assert "0.jpg: not an image" in text
        assert "1.png: the label must be 16x12 as its image, got 5x5" in text

    @pytest.mark.parametrize(
        ("ids", "classes", "got", "hint"),
        [
            ([0, 2], 2, "2 in 12 %", "start at 1"),
            ([7, 33], 19, "33 in 12 %", "labelTrainIds"),
            ([40, 90], 2, "40, 90 in 25 %", "map the ids"),
        ],
    )
    def test_unknown_ids(self, run, data, ids, classes, got, hint):
        names = ", ".join(f"c{index}" for index in range(classes))
        text = (data / "data.yaml").read_text().replace("road, sky", names)
        (data / "data.yaml").write_text(text)
        label = np.resize(np.array(ids, np.uint8), (12, 16))
        Image.fromarray(label).save(data / "labels" / "train" / "3.png")
        status, text, _ = run(data / "data.yaml")
        assert status == 1 and hint in text and "(unknown)" in text
        assert f"3.png: ids must be 0..{classes - 1}, or 255 to be ignored, got {got} of all" in text

    def test_many_problems_are_cut(self, run, data):
        for index in range(30):
            Image.new("RGB", (16, 12)).save(data / "images" / "val" / f"x{index}.jpg")
            (data / "labels" / "val" / f"x{index}.png").touch()
        status, text, _ = run(data / "data.yaml")
        assert status == 1 and "... and 10 more" in text

    def test_names_that_the_terminal_lacks(self, data):
        text = (data / "data.yaml").read_text().replace("road, sky", "Straße, 路")
        (data / "data.yaml").write_text(text, encoding="utf-8")
        done = alone("doctor", data / "data.yaml", PYTHONIOENCODING="ascii")
        assert (done.returncode, done.stderr) == (0, "")
        assert "Stra?e" in done.stdout and done.stdout.count("nothing wrong") == 2

    def test_missing_folder(self, run, data):
        status, text, _ = run(data / "data.yaml", "--root", data / "elsewhere")
        assert status == 1 and "elsewhere" in text

    def test_a_split_that_the_system_refuses_leaves_the_others(self, run, data):
        file = data / "data.yaml"
        file.write_text(file.read_text().replace("images/train", "x" * 300))
        status, output, errors = run(file)
        assert status == 1 and not errors and "File name too long" in output
        assert "pairs: 2; width x height: 16x12 (2)" in output

    def test_what_pillow_says_of_metadata_is_not_shown(self, data):
        """It warns of a tag behind the end of the file, in two lines with a path of its own."""
        file = data / "images" / "train" / "0.tif"
        (data / "images" / "train" / "0.jpg").unlink()
        copyright_, text = 33432, "a text that lies somewhere else in the file"
        Image.new("RGB", (16, 12)).save(file, tiffinfo={copyright_: text})
        content = file.read_bytes()
        entry = content.index(struct.pack("<HHI", copyright_, 2, len(text) + 1))
        file.write_bytes(content[: entry + 8] + struct.pack("<I", 1 << 20) + content[entry + 12 :])
        with pytest.warns(UserWarning, match="Truncated File Read"):
            read_image(file)
        done = alone("doctor", data / "data.yaml")  # pytest keeps warnings for itself
        assert (done.returncode, done.stderr) == (0, "") and done.stdout.count("nothing wrong") == 2
