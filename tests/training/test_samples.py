"""samples.png shows the same few images at every evaluation, with label, prediction, classes and mIoU."""

import dataclasses
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segnext.data.config import DataConfig, load_data_config
from segnext.data.dataset import SegmentationFolder
from segnext.evaluation.evaluate import evaluate
from segnext.evaluation.worst import LINE
from segnext.signals import StoppedAtOnce
from segnext.training import samples
from segnext.training.samples import SAMPLES, TILE, Sample, Samples, draw_samples
from segnext.training.settings import Reporting
from tests.data.synthetic import write_data_set
from tests.training.runs import Trigger, narrow, run

EVERY_THREE = Reporting(eval_every=3, checkpoint_every=3, log_every=1, workers=0)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> DataConfig:
    return load_data_config(write_data_set(tmp_path_factory.mktemp("houses"), val=9))


def taken(dataset: SegmentationFolder) -> list[Sample]:
    samples = Samples(dataset)
    evaluate(narrow().eval(), dataset, look=samples.look)
    return samples.taken


def drawn(data: DataConfig, chosen: list[Sample]) -> np.ndarray:
    return pixels(io.BytesIO(draw_samples(chosen, data.classes, data.palette, data.ignore_index)))


def pixels(png: Path | io.BytesIO) -> np.ndarray:
    with Image.open(png) as image:
        return np.asarray(image.convert("RGB")).astype(int)


@pytest.mark.parametrize(("count", "expected"), [(9, [1, 3, 5, 7]), (4, [0, 1, 2, 3]), (1, [0])])
def test_they_are_spread_over_the_split(data, count, expected):
    dataset = data.open("val")
    dataset.pairs = dataset.pairs[:count]
    names = [sample.scored.image_file.name for sample in taken(dataset)]
    assert names == [dataset.pairs[index][0].name for index in expected]


def test_photograph_and_label_are_drawn(data):
    picture = drawn(data, taken(data.open("val")))
    image, label = data.open("val")[1]
    height, width = label.shape
    top = 3 * LINE  # below file name, measures and titles
    np.testing.assert_array_equal(picture[top : top + height, :width], image)
    tinted = picture[top : top + height, width : 2 * width]
    colours = np.array([*data.palette, *[(0, 0, 0)] * 253])[label]  # ignored pixels are black
    inside = np.abs(tinted - (image.astype(int) + colours) / 2).max(2) <= 1
    assert inside.mean() > 0.6  # borders between classes are light


def test_the_prediction_and_its_classes_are_drawn(data):
    (sample, *_) = taken(data.open("val"))
    plain = sample._replace(label=np.full_like(sample.label, 255))
    masks = [np.full_like(sample.scored.mask, each) for each in (0, 1)]
    first, second = (
        drawn(data, [plain._replace(scored=dataclasses.replace(sample.scored, mask=mask))]) for mask in masks
    )
    height, width = sample.label.shape
    differing = np.abs(first - second).sum(2) > 0
    top = 3 * LINE
    assert differing[top : top + height, 2 * width : 3 * width].all()
    assert differing[top + height :].any()  # the legend
    assert not differing[: top + height, : 2 * width].any()


def test_tiles_of_large_images_are_small(data):
    (sample, *_) = taken(data.open("val"))
    ids = np.zeros((1000, 2000), np.uint8)
    scored = dataclasses.replace(sample.scored, mask=ids)
    height, width = drawn(data, [Sample(np.zeros((1000, 2000, 3), np.uint8), ids, scored)]).shape[:2]
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
