"""`segnext predict` is tested from the command line to the files that it leaves."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from segnext.cli.main import main

CLASSES, COLOURS = ["road", "sky", "tree"], [[128, 64, 128], [70, 130, 180], [0, 128, 0]]


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_one_photo(run, photos, tmp_path):
    status, output, errors = run(photos / "0.png")
    assert (status, errors) == (0, "")
    assert files(tmp_path / "out") == ["0_mask.png", "0_overlay.jpg", "predictions.json"]
    assert output.startswith("protocol native, short side native\n")
    assert "60x40" in output and str(tmp_path / "out" / "0_mask.png") in output and "%" in output
    with Image.open(tmp_path / "out" / "0_mask.png") as mask:
        assert mask.mode == "P" and mask.size == (60, 40) and np.array(mask).max() < 3
    with Image.open(tmp_path / "out" / "0_overlay.jpg") as overlay:
        assert overlay.width >= 60 and overlay.height > 40


def test_a_folder_and_its_summary(run, photos, tmp_path, weights):
    status, output, _ = run(photos)
    assert status == 0 and "3 images" in output
    summary = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert summary["classes"] == CLASSES and summary["palette"] == COLOURS
    assert summary["weights"] == str(weights) and summary["architecture"] == "segnext_t"
    assert summary["failures"] == []
    for index, record in enumerate(summary["images"]):
        mask = np.array(Image.open(tmp_path / "out" / record["mask"]))
        assert record["image"] == str(photos / f"{index}.png")
        assert mask.shape == (record["height"], record["width"])
        assert record["statistics"]["sky"] == pytest.approx((mask == 1).mean(), abs=1e-6)
        assert record["seconds"] > 0


def test_the_precision_of_products_belongs_to_the_results(run, photos, tmp_path):
    try:
        assert run(photos, "--matmul-precision", "high")[0] == 0
        summary = json.loads((tmp_path / "out" / "predictions.json").read_text())
        assert summary["matmul_precision"] == torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision("highest")


def test_equal_stems_do_not_meet(run, photos, tmp_path):
    other = tmp_path / "others"
    other.mkdir()
    (photos / "0.png").rename(other / "1.png")
    assert run(str(tmp_path / "*" / "*.png"))[0] == 0
    masks = [name for name in files(tmp_path / "out") if name.endswith("_mask.png")]
    assert masks == ["2_mask.png", "others_1_mask.png", "photos_1_mask.png"]
    assert Image.open(tmp_path / "out" / "others_1_mask.png").size == (60, 40)


def test_unreadable_images_are_listed_at_the_end(run, photos, tmp_path):
    (photos / "a.jpg").write_bytes(b"no image")
    (photos / "b.png").touch()
    status, _, errors = run(photos, photos / "missing.jpg", tmp_path / "*.gif")
    assert status == 1
    lines = errors.splitlines()
    assert len(lines) == 5 and all(line.startswith("segnext: ") for line in lines)
    for name in ("a.jpg", "b.png", "missing.jpg", "*.gif"):
        assert sum(name in line for line in lines) == 1
    assert lines[-1] == "segnext: 3 of 7 done, 4 failed"
    assert len([name for name in files(tmp_path / "out") if name.endswith("_mask.png")]) == 3
    assert len(json.loads((tmp_path / "out" / "predictions.json").read_text())["failures"]) == 4


def test_nothing_to_do(run, tmp_path):
    status, _, errors = run(tmp_path / "*.png")
    assert status == 1 and "no image matches the pattern" in errors
    assert not (tmp_path / "out").exists()


class TestOverwriting:
    def test_refused_before_any_work(self, run, photos, tmp_path):
        run(photos / "0.png")
        before = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()}
        status, output, errors = run(photos)
        assert (status, output) == (1, "")
        assert errors.count("\n") == 1 and "--overwrite" in errors and "0_mask.png" in errors
        assert {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()} == before

    def test_asked(self, run, photos, tmp_path):
        run(photos / "0.png")
        Image.new("L", (1, 1)).save(tmp_path / "out" / "0_mask.png")
        assert run(photos, "--overwrite")[0] == 0
        assert Image.open(tmp_path / "out" / "0_mask.png").size == (60, 40)

    def test_other_files_in_the_folder_do_not_matter(self, run, photos, tmp_path):
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "notes.txt").write_text("mine")
        assert run(photos)[0] == 0
        assert (tmp_path / "out" / "notes.txt").read_text() == "mine"

    def test_output_is_a_file(self, run, photos, tmp_path):
        (tmp_path / "out").write_text("a file")
        status, _, errors = run(photos)
        assert status == 1 and "must be a folder" in errors


class TestOptions:
    def test_no_overlay(self, run, photos, tmp_path):
        assert run(photos / "0.png", "--no-overlay")[0] == 0
        assert files(tmp_path / "out") == ["0_mask.png", "predictions.json"]

    def test_json_goes_to_the_output_alone(self, run, photos, tmp_path):
        status, output, _ = run(photos, "--json")
        assert status == 0
        assert json.loads(output) == json.loads((tmp_path / "out" / "predictions.json").read_text())

    def test_inference_options_arrive(self, run, photos, tmp_path):
        options = (
            "--mode slide --crop 32 --stride 20 --scales 0.5,1 --flip --short-side 48 --protocol official"
        )
        assert run(photos / "0.png", *options.split(), "--dtype", "bfloat16", "--threads", 1)[0] == 0
        summary = json.loads((tmp_path / "out" / "predictions.json").read_text())
        expected = {"mode": "slide", "crop": 32, "stride": 20, "scales": [0.5, 1.0], "flip": True}
        assert summary["inference"] == expected | {"short_side": 48, "protocol": "official", "batch": 1}
        assert summary["dtype"] == "bfloat16"

    def test_max_pixels(self, run, photos, monkeypatch):
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", Image.MAX_IMAGE_PIXELS)  # put back afterwards
        status, _, errors = run(photos, "--max-pixels", 2000)
        assert status == 1 and "1 of 3 done, 2 failed" in errors
        assert "2,400 pixels, over Pillow's safety limit of 2,000" in errors

    @pytest.mark.parametrize(
        ("words", "message"),
        [
            (["--scales", "1;2"], "--scales must be numbers separated by commas, got '1;2'"),
            (["--mode", "slide", "--crop", 8, "--stride", 9], "stride must be from 1 to the crop"),
            (["--device", "cuda:99"], "device must be"),
        ],
    )
    def test_refused_in_a_line(self, run, photos, tmp_path, words, message):
        status, _, errors = run(photos, *words)
        assert status == 1 and errors.count("\n") == 1 and message in errors
        assert not (tmp_path / "out").exists()


def test_missing_weights(photos, tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(["predict", str(photos), "-w", str(tmp_path / "none.pth"), "-o", str(tmp_path / "out")])
    errors = capsys.readouterr().err
    assert errors.startswith("segnext: ") and errors.count("\n") == 1 and "none.pth" in errors
