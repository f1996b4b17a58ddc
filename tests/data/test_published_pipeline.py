"""Resize, crop and distortion are those of the published recipes, bit for bit.

With SEGNEXT_MMSEG_PYTHON, an interpreter that has mmsegmentation, they are compared with the real ones; numbers that
OpenCV gave stand in the other tests.
"""

import hashlib
import subprocess
from pathlib import Path

import numpy as np

from segnext.data.photometric import Distortion, hsv_to_rgb, rgb_to_hsv
from segnext.data.preprocessing import Preprocessing
from segnext.data.resizing import nearest, resize_window
from segnext.data.transforms import CROP_ATTEMPTS, Augmentation
from tests.interop.mmsegmentation import PYTHON, needs_mmsegmentation

VECTOR = 32  # OpenCV computes so many columns at once; those left over it rounds, which it does not do in the others
TAIL = 12  # of 255: a level that is rounded moves the hue that is computed of it


def every_hsv() -> np.ndarray:
    """Return all 180 x 256 x 256 values, as OpenCV stores them."""
    axes = np.meshgrid(np.arange(180), np.arange(256), np.arange(256), indexing="ij")
    return np.stack(axes, -1).astype(np.uint8).reshape(180, -1, 3)


def to_rgb(hsv: np.ndarray) -> np.ndarray:
    return hsv_to_rgb(hsv[..., 0].astype(np.int32), hsv[..., 1].astype(np.int32), hsv[..., 2])


def digest(array: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()[:16]


def test_every_hue_saturation_and_value_is_the_colour_of_opencv():
    assert digest(to_rgb(every_hsv())) == "cf2763d893cfed37"  # of OpenCV 5.0.0; 4.11.0 gives the same


def test_colours_become_the_hues_of_opencv():
    colours = np.stack(np.meshgrid(*[np.arange(0, 256, 3)] * 3, indexing="ij"), -1).astype(np.uint8)
    hsv = np.stack(rgb_to_hsv(colours.reshape(86, -1, 3)), -1).astype(np.uint8)
    assert digest(hsv) == "81fbd79e7a38684b"


def draws(seed: int, ids: np.ndarray, crop: int) -> tuple[int, int, Distortion]:
    """Return what mmsegmentation's RandomCrop and PhotoMetricDistortion draw after `np.random.seed(seed)`."""
    random = np.random.RandomState(seed)
    rows, columns = (max(side - crop, 0) + 1 for side in ids.shape)

    def corner() -> tuple[int, int]:
        return int(random.randint(0, rows)), int(random.randint(0, columns))

    top, left = corner()
    for _ in range(CROP_ATTEMPTS):
        found, counts = np.unique(ids[top : top + crop, left : left + crop], return_counts=True)
        counts = counts[found != 255]
        if len(counts) > 1 and counts.max() / counts.sum() < 0.75:
            break
        top, left = corner()
    brightness = random.uniform(-32, 32) if random.randint(2) else None
    first = bool(random.randint(2))
    contrast = random.uniform(0.5, 1.5) if first and random.randint(2) else None
    saturation = random.uniform(0.5, 1.5) if random.randint(2) else None
    hue = random.randint(-18, 18) if random.randint(2) else None
    if not first:
        contrast = random.uniform(0.5, 1.5) if random.randint(2) else None
    return top, left, Distortion(brightness, contrast, first, saturation, hue)


@needs_mmsegmentation
def test_whole_views_equal_those_of_mmsegmentation(tmp_path):
    rng, crop, ratios = np.random.default_rng(0), 64, []
    cases: dict[str, np.ndarray] = {"hsv": every_hsv()}
    for index in range(60):
        height, width, side = (int(number) for number in rng.integers((20, 20, 30), (300, 300, 250)))
        blocks = np.kron(rng.integers(0, 3, (5, 5)), np.ones((60, 60)))
        cases[f"image{index}"] = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        cases[f"label{index}"] = blocks[:height, :width].astype(np.uint8)
        ratios.append((side, rng.uniform(0.5, 2)))
        box = (int(4 * side * ratios[-1][1]), int(side * ratios[-1][1]))
        cases[f"numbers{index}"] = np.array([*box, index, crop])
    np.savez(tmp_path / "cases.npz", count=60, **cases)
    peer = Path(__file__).with_name("published_pipeline_peer.py")
    subprocess.run([PYTHON, peer, tmp_path / "cases.npz", tmp_path / "results.npz"], check=True)
    with np.load(tmp_path / "results.npz") as theirs:
        np.testing.assert_array_equal(to_rgb(cases["hsv"]), theirs["rgb"])
        for index, (side, ratio) in enumerate(ratios):
            image, label = cases[f"image{index}"], cases[f"label{index}"]
            augmentation = Augmentation(crop, preprocessing=Preprocessing(short_side=side))
            size = augmentation.resized(*label.shape, ratio)
            ids = label[nearest(label.shape[0], size[0])[:, None], nearest(label.shape[1], size[1])]
            top, left, distortion = draws(index, ids, crop)
            window = slice(top, min(top + crop, size[0])), slice(left, min(left + crop, size[1]))
            np.testing.assert_array_equal(ids[window], theirs[f"label{index}"])
            view = distortion(resize_window(image, size, *window))
            whole = slice(0, view.shape[1] // VECTOR * VECTOR)
            np.testing.assert_array_equal(view[:, whole], theirs[f"image{index}"][:, whole])
            difference = view[:, whole.stop :].astype(int) - theirs[f"image{index}"][:, whole.stop :]
            assert np.abs(difference).max(initial=0) <= TAIL
