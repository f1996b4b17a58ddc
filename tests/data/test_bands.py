"""Images of any number of bands: read, trained on, evaluated and predicted, with tifffile's own files."""

import re
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from segnext import Predictor
from segnext.data.bands import read_bands, rgb_view
from segnext.data.config import load_data_config
from segnext.data.images import ImageError
from tests.cli.commands import call

tifffile = pytest.importorskip("tifffile", reason="the reader of bands is an extra")

VALUES = np.random.default_rng(0).integers(0, 4096, (12, 10, 5), dtype=np.uint16)
RANGE = (0.0, 4095.0)


def scaled(values: np.ndarray) -> np.ndarray:
    return np.round(values / 4095 * 255).astype(np.uint8)


@pytest.mark.parametrize(
    "options",
    [
        {"planarconfig": "contig", "photometric": "minisblack"},
        {"planarconfig": "separate", "photometric": "minisblack"},
        {"planarconfig": "contig", "photometric": "minisblack", "compression": "zlib"},
        {"photometric": "minisblack"},  # five pages of one band
    ],
    ids=["interleaved", "planes", "deflate", "pages"],
)
def test_every_order_on_disk_gives_the_same_bands(options, tmp_path):
    is_interleaved = options.get("planarconfig") == "contig"
    tifffile.imwrite(tmp_path / "x.tif", VALUES if is_interleaved else VALUES.transpose(2, 0, 1), **options)
    image = read_bands(tmp_path / "x.tif", (4, 0, 2, 1), RANGE)
    np.testing.assert_array_equal(image, scaled(VALUES[:, :, [4, 0, 2, 1]]))
    assert image.flags.c_contiguous and image.flags.writeable


def test_8_bits_stay_as_they_are_and_other_files_have_red_green_and_blue(tmp_path):
    pixels = VALUES[:, :, :3].astype(np.uint8)
    tifffile.imwrite(tmp_path / "x.tif", pixels)
    Image.fromarray(pixels).save(tmp_path / "x.png")
    for name in ("x.tif", "x.png"):
        np.testing.assert_array_equal(read_bands(tmp_path / name, (2, 0)), pixels[:, :, [2, 0]])
    np.testing.assert_array_equal(read_bands(tmp_path / "x.png", None), pixels)


def test_what_cannot_be_read_is_named(tmp_path):
    tifffile.imwrite(tmp_path / "x.tif", VALUES, photometric="minisblack", planarconfig="contig")
    with pytest.raises(ImageError, match=r"x\.tif: band 5 must be there, got 5 bands \(counted from 0\)"):
        read_bands(tmp_path / "x.tif", (0, 5), RANGE)
    with pytest.raises(
        ImageError, match=r"x\.tif: uint16 values have no defined brightness; say value_range"
    ):
        read_bands(tmp_path / "x.tif", (0, 1))
    tifffile.imwrite(tmp_path / "nan.tif", np.full((4, 4), np.nan, np.float32))
    with pytest.raises(ImageError, match=r"nan\.tif: pixels must be finite numbers"):
        read_bands(tmp_path / "nan.tif", (0,), RANGE)
    for content in (b"", b"II*\0" + bytes(20), (tmp_path / "x.tif").read_bytes()[:700]):
        (tmp_path / "bad.tif").write_bytes(content)
        with pytest.raises(ImageError, match=r"^.*bad\.tif: cannot be decoded \([^\n]*\)$"):
            read_bands(tmp_path / "bad.tif", (0, 1), RANGE)


def test_what_people_see_of_bands():
    assert rgb_view(VALUES).shape == (12, 10, 3)
    one = rgb_view(VALUES[:, :, :2])
    np.testing.assert_array_equal(one, np.repeat(VALUES[:, :, :1], 3, axis=2))


@pytest.fixture
def satellite(tmp_path) -> Path:
    """Return the YAML of images of five bands, in whose last one alone the two classes differ."""
    rng = np.random.default_rng(1)
    for split, count in (("train", 4), ("val", 2)):
        for index in range(count):
            label = np.kron(rng.integers(0, 2, (4, 4)), np.ones((12, 12))).astype(np.uint8)
            values = rng.integers(0, 4096, (48, 48, 5)).astype(np.uint16)
            values[:, :, 4] = 500 + 3000 * label.astype(np.uint16)
            for kind in ("images", "labels"):
                (tmp_path / kind / split).mkdir(parents=True, exist_ok=True)
            file = tmp_path / "images" / split / f"{index}.tif"
            tifffile.imwrite(file, values, photometric="minisblack", planarconfig="contig")
            Image.fromarray(label).save(tmp_path / "labels" / split / f"{index}.png")
    content = {
        "path": ".",
        "classes": ["water", "land"],
        "bands": [4, 0, 1, 2],
        "mean": [120, 127, 127, 127],
        "std": [80, 70, 70, 70],
        "value_range": [0, 4095],
        **{split: {kind: f"{kind}/{split}" for kind in ("images", "labels")} for split in ("train", "val")},
    }
    (tmp_path / "data.yaml").write_text(yaml.safe_dump(content))
    return tmp_path / "data.yaml"


def test_a_network_of_four_bands_learns_is_evaluated_and_predicts(satellite, tmp_path, capsys):
    call("doctor", satellite)
    short = "--steps 30 --warmup 5 --batch-size 4 --crop 32 --ema 0.5 --lr 3e-3"
    call("train", satellite, "-o", tmp_path / "run", "--device", "cpu", *short.split())
    weights = tmp_path / "run" / "final.safetensors"
    capsys.readouterr()
    call("val", satellite, "-w", weights, "--worst-dir", tmp_path / "worst", "--worst-count", "1")
    (picture,) = (tmp_path / "worst").glob("1_*.png")
    with Image.open(picture) as drawn:
        assert drawn.mode == "RGB"
    (miou,) = re.findall(r"mIoU (\S+)\n", capsys.readouterr().out)
    assert float(miou) > 0.6  # 0.33 without the fifth band
    file = tmp_path / "images" / "val" / "0.tif"
    predictor = Predictor(weights, device="cpu")
    assert predictor.preprocessing.bands == (4, 0, 1, 2)
    prediction = predictor(file)
    label = np.asarray(Image.open(tmp_path / "labels" / "val" / "0.png"))
    assert (prediction.mask == label).mean() > 0.7
    assert prediction.image.shape == (48, 48, 3)
    np.testing.assert_array_equal(predictor(read_bands(file, (4, 0, 1, 2), RANGE)).mask, prediction.mask)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"bands": "all"}, r"bands in .* must be numbers of bands from 0, such as \[0, 1, 2, 3\], got 'all'"),
        ({"bands": [0, -1]}, "bands in .* must be numbers"),
        ({"bands": []}, "bands in .* must be numbers"),
        ({"mean": None}, r"mean and std in .* must both be there beside bands, got None and \[80"),
        (
            {"mean": None, "std": None},
            "must both be there beside bands, got None and None; say 4 numbers each",
        ),
        ({"mean": [1, 2, 3]}, "mean in .* must be 4 numbers, one per channel"),
        ({"std": [1, 2, 3, 0]}, "std in .* must be 4 numbers above 0, one per channel"),
    ],
)
def test_keys_that_do_not_fit(satellite, changes, words):
    content = yaml.safe_load(satellite.read_text()) | changes
    satellite.write_text(yaml.safe_dump({key: value for key, value in content.items() if value is not None}))
    with pytest.raises(ValueError, match=words):
        load_data_config(satellite)
