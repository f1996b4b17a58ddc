"""Memory grows with a large image by its 8-bit pixels and its results, never by logits or float32 copies."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import ExifTags, Image

SIDE = 3000

PROGRAM = """
import json, resource, sys, types
import numpy as np, torch
from segnext.data.images import read_image
from segnext.data.preprocessing import as_batch
from segnext.predict.inference import Inference, predict_mask
from segnext.predict.prediction import Prediction

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

class Brightness:  # a network that costs nothing
    training, config = False, types.SimpleNamespace(align_corners=False, threshold=None)
    def __init__(self, classes):
        self.classes = classes
    def forward_logits(self, images):
        pooled = torch.nn.functional.avg_pool2d(images[:, :1], 8, ceil_mode=True)
        return pooled * torch.linspace(-1, 1, self.classes)[:, None, None]
    def expect_finite(self, logits):
        pass

network, inference = Brightness(int(sys.argv[3])), Inference(mode="slide", **json.loads(sys.argv[4]))
small = read_image(sys.argv[1])
mask = predict_mask(network, as_batch(small), inference=inference)[0].numpy()
names, palette = ("class",) * network.classes, np.zeros((network.classes, 3), np.uint8)
Prediction(mask, small, names, palette, 0.0).overlay()
peaks = {"before": peak()}
image = read_image(sys.argv[2])
peaks["reading"] = peak()
mask = predict_mask(network, as_batch(image), inference=inference)
assert mask.shape == (1, *image.shape[:2])
peaks["predicting"] = peak()
prediction = Prediction(mask[0].numpy(), image, names, palette, 0.0)
prediction.statistics()
peaks["counting"] = peak()
prediction.overlay()
peaks["drawing"] = peak()
print(json.dumps({name: (value - peaks["before"]) / mask.numel() for name, value in peaks.items()}))
"""


def bytes_per_pixel(
    folder: Path, classes: int, options: dict[str, Any], orientation: int = 1
) -> dict[str, float]:
    """Return by how much the peak of a process has grown after each stage of a prediction of SIDE x SIDE pixels."""
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    for name, side in (("small", 300), ("large", SIDE)):
        Image.new("RGB", (side, side), (9, 99, 199)).save(folder / f"{name}.jpg", exif=exif)
    files = (folder / "small.jpg", folder / "large.jpg")
    command = [sys.executable, "-c", PROGRAM, *files, str(classes), json.dumps(options)]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    return dict(json.loads(run.stdout))


linux = pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is in KiB on Linux")


@linux
@pytest.mark.parametrize("orientation", [1, 6], ids=["upright", "turned"])
def test_bytes_per_pixel(tmp_path: Path, orientation: int) -> None:
    peaks = bytes_per_pixel(tmp_path, 2, {"crop": 256}, orientation)
    # Pillow takes 4 bytes, twice while it turns an image, and then the array 3. The mask and a band of logits come
    # where Pillow's were.
    assert peaks["reading"] < 9
    assert peaks["predicting"] < 9
    assert peaks["counting"] - peaks["predicting"] < 1
    # The photograph, its mask, and the picture with its legend in Pillow's 4 bytes.
    assert peaks["drawing"] < 13


@linux
@pytest.mark.parametrize(
    "options", [{}, {"protocol": "mmseg1"}, {"short_side": 300}], ids=["native", "padded", "resized"]
)
def test_classes_take_little(tmp_path: Path, options: dict[str, Any]) -> None:
    """Logits of a row of windows would take 65 bytes per pixel for 48 classes, and those of all pixels 192."""
    assert bytes_per_pixel(tmp_path, 48, {"crop": 1024, **options})["predicting"] < 32


INSPECTION = """
import resource, types
import torch
from segnext.predict.inference import Inference
from segnext.predict.inspection import inspect

class Brightness:  # a network that costs nothing
    training, config = False, types.SimpleNamespace(align_corners=False, threshold=None, num_classes=150)
    def forward_logits(self, images):
        pooled = torch.nn.functional.avg_pool2d(images[:, :1], 8, ceil_mode=True)
        return pooled * torch.linspace(-1, 1, 150)[:, None, None]
    def expect_finite(self, logits):
        pass

def peak(side):
    inspect(Brightness(), torch.zeros(1, 3, side, side, dtype=torch.uint8), inference=Inference(flip=True))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

before = peak(100)
print((peak(1500) - before) / 1500**2)
"""


@linux
def test_the_bytes_per_pixel_of_maps() -> None:
    """Probabilities of 150 classes would take 600 bytes; a band of 32 MB takes 15, and three maps 12."""
    run = subprocess.run([sys.executable, "-c", INSPECTION], capture_output=True, text=True, check=True)
    assert float(run.stdout) < 200
