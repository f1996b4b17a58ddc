"""The picture of a confusion matrix is drawn for few classes and for many, whatever their names are."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from segnext.evaluation.confusion_picture import confusion_picture
from segnext.evaluation.metrics import ConfusionMatrix

pytest.importorskip("matplotlib")


@pytest.mark.parametrize("classes", [2, 11, 150])
def test_it_shows_the_counts_at_any_number_of_classes(classes):
    confusion = ConfusionMatrix(classes)
    ids = torch.arange(classes - 1)[None]  # the last class never occurs
    confusion.update((ids + 1) % classes, ids)
    names = [
        f"class $x_{{{index}$ \u9053" for index in range(classes)
    ]  # no formula, and no letter of the font
    content = confusion_picture(confusion, names)
    with Image.open(io.BytesIO(content)) as picture:
        assert picture.format == "PNG" and 350 < picture.height < picture.width < 4000
        pixels = np.asarray(picture.convert("RGB")).astype(int)
    assert ((pixels[..., 2] - pixels[..., 0]) > 60).mean() > 0.3 / classes**2  # the blue cells
    if classes < 100:  # a second picture of many takes seconds
        confusion.update(ids, ids)
        assert confusion_picture(confusion, names) != content
