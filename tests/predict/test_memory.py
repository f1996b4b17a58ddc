"""Memory grows with a large image by its 8-bit pixels and its mask, never by float32 copies of them."""

import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

SIDE = 3000

PROGRAM = """
import resource, sys, types
import numpy as np, torch
from segnext.data.images import read_image
from segnext.data.preprocessing import as_batch
from segnext.predict.inference import Inference, predict_mask
from segnext.predict.prediction import Prediction

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

class Brightness:  # a network that costs nothing
    training, config = False, types.SimpleNamespace(align_corners=False, threshold=None)
    def forward_logits(self, images):
        return torch.nn.functional.avg_pool2d(images[:, :2], 8, ceil_mode=True)
    def expect_finite(self, logits):
        pass

slide = Inference(mode="slide", crop=256)
read_image(sys.argv[1]), predict_mask(Brightness(), torch.zeros(1, 3, 300, 300, dtype=torch.uint8), inference=slide)
before = peak()
image = read_image(sys.argv[2])
read = peak()
mask = predict_mask(Brightness(), as_batch(image), inference=slide)
assert mask.shape == (1, *image.shape[:2])
predicted = peak()
prediction = Prediction(mask[0].numpy(), image, ("dark", "light"), np.zeros((2, 3), np.uint8), 0.0)
prediction.statistics()
print((peak() - predicted) / mask.numel(), (read - before) / mask.numel(), (peak() - before) / mask.numel())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is in KiB on Linux")
def test_bytes_per_pixel(tmp_path: Path) -> None:
    for name, side in (("small", 9), ("large", SIDE)):
        Image.new("RGB", (side, side), (9, 99, 199)).save(tmp_path / f"{name}.bmp")
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM, tmp_path / "small.bmp", tmp_path / "large.bmp"],
        capture_output=True,
        text=True,
        check=True,
    )
    counting, reading, everything = map(float, run.stdout.split())
    # Pillow takes 4 bytes and the array 3; then the mask and a row of windows come where Pillow's were.
    assert reading < 7.6
    assert everything < 8.5
    assert counting < 1
