"""samples.png shows the same few images at every evaluation, with label, prediction, classes and mIoU."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segnext.data.config import DataConfig, load_data_config
from segnext.evaluation.evaluate import evaluate
from segnext.signals import StoppedAtOnce
from segnext.training import samples
from segnext.training.samples import SAMPLES, TILE, Samples
from segnext.training.settings import Reporting
from tests.data.synthetic import write_data_set
from tests.training.runs import Trigger, narrow, run

EVERY_THREE = Reporting(eval_every=3, checkpoint_every=3, log_every=1, workers=0)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> DataConfig:
    return load_data_config(write_data_set(tmp_path_factory.mktemp("houses"), val=9))


def seen(data: DataConfig) -> Samples:
    dataset = data.open("val")
    found = Samples(dataset, data.classes, data.palette)
    evaluate(narrow().eval(), dataset, look=found.look)
    return found


def pixels(png: bytes | memoryview | Path) -> np.ndarray:
    with Image.open(png if isinstance(png, Path) else io.BytesIO(png)) as image:
        return np.asarray(image.convert("RGB")).astype(int)


def test_they_are_spread_over_the_split(data):
    assert sorted(seen(data)._scored) == [1, 3, 5, 7]


def test_a_split_of_few_images_is_shown_whole(data):
    few = data.open("val").share(0, 4)
    found = Samples(few, data.classes, data.palette)
    evaluate(narrow().eval(), few, look=found.look)
    assert sorted(found._scored) == [0, 1, 2] and pixels(found.draw()).size


def test_photograph_and_label_are_drawn(data):
    found = seen(data)
    picture = pixels(found.draw())
    image, label = data.open("val")[1]
    height, width = label.shape
    top = 3 * 24  # below file name, measures and titles
    np.testing.assert_array_equal(picture[top : top + height, :width], image)
    tinted = picture[top : top + height, width : 2 * width]
    colours = np.array([*data.palette, *[(0, 0, 0)] * 253])[label]  # ignored pixels are black
    inside = np.abs(tinted - (image.astype(int) + colours) / 2).max(2) <= 1
    assert inside.mean() > 0.6  # borders between classes are light


def test_tiles_of_large_images_are_small(data):
    found = Samples(data.open("val"), data.classes, data.palette)
    (index, scored) = next(iter(seen(data)._scored.items()))
    large = np.zeros((1000, 2000, 3), np.uint8), np.zeros((1000, 2000), np.uint8)
    found.dataset._cache[index] = large
    object.__setattr__(scored, "mask", large[1])
    found._scored[index] = scored
    height, width = pixels(found.draw()).shape[:2]
    assert width == 3 * 640 and TILE[1] < height < TILE[1] + 200


def test_each_evaluation_draws_them_anew(data, tmp_path):
    found: list[np.ndarray] = []

    def take() -> None:
        found.append(pixels(tmp_path / SAMPLES))
        (tmp_path / SAMPLES).unlink()

    run(data, tmp_path, reporting=EVERY_THREE, file=Trigger("step 4/6  loss", take))
    assert found[0].shape[1] == pixels(tmp_path / SAMPLES).shape[1]


def test_an_earlier_run_keeps_its_picture_until_it_gives_way(data, tmp_path):
    run(data, tmp_path, reporting=EVERY_THREE)
    before = (tmp_path / SAMPLES).read_bytes()
    early = Reporting(eval_every=1, checkpoint_every=4, log_every=1, workers=0)

    def stop() -> None:
        raise StoppedAtOnce

    with pytest.raises(StoppedAtOnce):
        run(data, tmp_path, reporting=early, overwrite=True, file=Trigger("step 3/6", stop))
    assert (tmp_path / SAMPLES).read_bytes() == before
    with pytest.raises(StoppedAtOnce):
        run(data, tmp_path, reporting=early, overwrite=True, file=Trigger("step 4/6  val", stop))
    assert not (tmp_path / SAMPLES).exists()


def test_a_picture_that_cannot_be_drawn_ends_no_run(data, tmp_path, monkeypatch):
    def broken(*_: object) -> None:
        raise ValueError("no room")

    monkeypatch.setattr(samples, "draw_triple", broken)
    printed = io.StringIO()
    run(data, tmp_path, reporting=EVERY_THREE, file=printed)
    assert printed.getvalue().count("samples.png was not drawn: no room") == 2
    assert not (tmp_path / SAMPLES).exists()
