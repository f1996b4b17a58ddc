"""A model is evaluated on a data set, image by image, in the way in which it predicts."""

import dataclasses
import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from segnext import Predictor, deploy
from segnext.data.config import DataConfig, load_data_config
from segnext.data.preprocessing import MEAN, STD
from segnext.evaluation.boundary import BoundaryCounts
from segnext.evaluation.evaluate import Predicted, evaluate
from segnext.evaluation.metrics import ConfusionMatrix
from segnext.models import SegNeXt
from segnext.models.finite import NonFiniteError
from segnext.predict.inference import Inference
from tests.data.synthetic import CLASSES, scene, write_data_set, write_pair, write_yaml
from tests.data.test_depth import deep_png
from tests.training.runs import narrow


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> DataConfig:
    """Make a data set whose val split has two scenes of 40x48 and one of 51x37."""
    folder = tmp_path_factory.mktemp("houses")
    yaml = write_data_set(folder)
    write_pair(folder, "val", "portrait", *scene(2000, 51, 37))
    return load_data_config(yaml)


@pytest.fixture(scope="module")
def model(data) -> SegNeXt:
    """Make a model of random weights with the data's statistics, so that every class is predicted somewhere."""
    network = narrow()
    with torch.no_grad():
        images = torch.stack([torch.from_numpy(data.open("train")[index][0]) for index in range(5)])
        for _ in range(10):
            network.train()((images.permute(0, 3, 1, 2) - torch.tensor(MEAN)[:, None, None]) / 57)
        network.decoder.classifier.weight.mul_(100)
    return network.eval()


def counted_by_hand(model: SegNeXt, data: DataConfig) -> np.ndarray:
    counts = np.zeros((3, 3), int)
    dataset = data.open("val")
    for index in range(len(dataset)):
        image, label = dataset[index]
        pixels = torch.from_numpy((image - np.array(MEAN)) / np.array(STD)).float().permute(2, 0, 1)[None]
        with torch.no_grad():
            logits = F.interpolate(model.forward_logits(pixels), label.shape, mode="bilinear")
        for true, predicted in zip(label.ravel(), logits.argmax(1).numpy().ravel(), strict=True):
            if true != 255:
                counts[true, predicted] += 1
    return counts


def test_counts_are_those_of_each_pixel_at_native_size(model, data):
    evaluation = evaluate(model, data.open("val"))
    expected = counted_by_hand(model, data)
    assert (expected.sum(0) > 0).all()
    # Pixels on the line between two classes may differ by rounding.
    assert np.abs(evaluation.confusion.counts.numpy() - expected).sum() <= 4
    assert int(evaluation.confusion.counts.sum()) == 2 * 39 * 48 + 50 * 37
    assert evaluation.images == 3 and evaluation.seconds > 0


@pytest.mark.parametrize(
    "changes",
    [{"mean": [90.0, 100.0, 110.0]}, {"std": [30.0, 40.0, 90.0]}, {"short_side": 64}],
    ids=lambda changes: "".join(changes),
)
def test_weights_are_evaluated_as_they_are_predicted(model, data, monkeypatch, changes):
    preprocessing = {"mean": list(MEAN), "std": list(STD)} | changes
    monkeypatch.setattr(model, "metadata", {"preprocessing": preprocessing})
    dataset, predictor, predicted = data.open("val"), Predictor(model), ConfusionMatrix(3)
    for index, (image_file, _) in enumerate(dataset.pairs):
        predicted.update(torch.from_numpy(predictor(image_file).mask), torch.from_numpy(dataset[index][1]))
    evaluated = evaluate(deploy(model, torch.float32), dataset).confusion
    assert torch.equal(evaluated.counts, predicted.counts)
    monkeypatch.setattr(model, "metadata", {})
    assert not torch.equal(evaluate(deploy(model, torch.float32), dataset).confusion.counts, predicted.counts)


def test_the_range_of_the_weights_reaches_images_of_more_than_8_bits(model, tmp_path, monkeypatch):
    write_pair(tmp_path, "val", "a", *scene(5))
    deep_png(tmp_path / "images" / "val" / "a.png", scene(5)[0].astype(np.uint16) * 16)
    data = load_data_config(write_yaml(tmp_path / "houses.yaml", train=None))
    stored = {"mean": list(MEAN), "std": list(STD), "value_range": [0, 9000]}
    monkeypatch.setattr(model, "metadata", {"preprocessing": stored})
    mask = Predictor(model)(tmp_path / "images" / "val" / "a.png").mask
    Image.fromarray(mask).save(tmp_path / "labels" / "val" / "a.png")
    assert len(np.unique(mask)) > 1
    assert evaluate(deploy(model, torch.float32), data.open("val")).confusion.pixel_accuracy == 1
    own = dataclasses.replace(data, value_range=(0, 4095))  # the data set's goes first
    assert evaluate(deploy(model, torch.float32), own.open("val")).confusion.pixel_accuracy < 1


@pytest.mark.parametrize(
    "inference",
    [
        Inference(mode="slide", crop=24, stride=16),
        Inference(scales=(0.75, 1.25)),
        Inference(flip=True),
        Inference(protocol="official"),
        Inference(protocol="mmseg1"),
        Inference(short_side=64),
    ],
    ids=["slide", "scales", "flip", "official", "mmseg1", "short-side"],
)
def test_every_protocol_counts_every_pixel_its_own_way(model, data, inference):
    plain, other = evaluate(model, data.open("val")), evaluate(model, data.open("val"), inference=inference)
    assert torch.equal(plain.confusion.counts.sum(1), other.confusion.counts.sum(1))
    assert not torch.equal(plain.confusion.counts, other.confusion.counts)


def test_one_window_over_everything_is_the_whole_image(model, data):
    whole = evaluate(model, data.open("val")).confusion
    slide = evaluate(model, data.open("val"), inference=Inference(mode="slide", crop=64)).confusion
    assert (whole.counts - slide.counts).abs().sum() <= 4
    native = evaluate(model, data.open("val"), inference=Inference(short_side=0)).confusion
    assert torch.equal(whole.counts, native.counts)


def test_bfloat16_is_close(model, data):
    exact = evaluate(model, data.open("val")).confusion.counts
    rounded = evaluate(model, data.open("val"), dtype=torch.bfloat16).confusion.counts
    assert not torch.equal(exact, rounded) and (exact - rounded).abs().sum() < 0.2 * exact.sum()


def test_summary_is_json_by_class_name(model, data):
    evaluation = evaluate(model, data.open("val"))
    summary = json.loads(json.dumps(evaluation.summary(tuple(CLASSES)), allow_nan=False))
    confusion = evaluation.confusion
    assert summary["miou"] == pytest.approx(confusion.miou, abs=1e-6)
    assert summary["pixel_accuracy"] == pytest.approx(confusion.pixel_accuracy, abs=1e-6)
    assert summary["mean_accuracy"] == pytest.approx(float(confusion.accuracy.mean()), abs=1e-6)
    assert list(summary["class_iou"]) == list(summary["class_accuracy"]) == CLASSES
    assert summary["class_iou"]["roof"] == pytest.approx(float(confusion.iou[1]), abs=1e-6)
    assert summary["images"] == 3
    assert summary["class_dice"]["door"] == pytest.approx(float(confusion.dice[2]), abs=1e-6)
    assert summary["mean_dice"] == pytest.approx(float(confusion.dice.mean()), abs=1e-6)
    assert 0 < summary["frequency_weighted_iou"] < 1 and 0 < summary["mean_precision"] < 1
    assert not any("boundary" in name for name in summary)


def test_boundaries_are_counted_if_asked_for(model, data):
    dataset, expected = data.open("val"), BoundaryCounts(3)
    looked: list[Predicted] = []
    evaluation = evaluate(model, dataset, boundary=True, look=looked.append)
    for predicted, (image_file, label_file), index in zip(looked, dataset.pairs, range(3), strict=True):
        assert (predicted.image_file, predicted.label_file) == (image_file, label_file)
        expected.update(predicted.mask, torch.from_numpy(dataset[index][1]))
    summary = evaluation.summary(tuple(CLASSES))
    assert summary["mean_boundary_iou"] == pytest.approx(expected.miou, abs=1e-6) and expected.miou > 0
    assert list(summary["class_boundary_iou"]) == CLASSES
    assert torch.equal(sum(one.confusion.counts for one in looked), evaluation.confusion.counts)


def test_absent_classes_are_null(data):
    model = narrow(num_classes=4)
    with torch.no_grad():
        model.decoder.classifier.bias[3] = -1e4
    config = dataclasses.replace(data, classes=(*CLASSES, "ghost"), palette=(*data.palette, (0, 0, 0)))
    summary = evaluate(model.eval(), config.open("val")).summary(config.classes)
    assert summary["class_iou"]["ghost"] is None and summary["class_accuracy"]["ghost"] is None
    present = [summary["class_iou"][name] for name in CLASSES]
    assert summary["miou"] == pytest.approx(np.mean(present), abs=1e-5)


def test_after_image_is_called_for_each(model, data):
    calls: list[int] = []
    evaluate(model, data.open("val"), after_image=lambda: calls.append(1))
    assert len(calls) == 3


@pytest.mark.parametrize("inference", [Inference(), Inference(mode="slide", crop=24), Inference(flip=True)])
@pytest.mark.parametrize("deployed", [False, True])
def test_logits_that_are_no_numbers_are_no_classes(data, inference, deployed):
    network = narrow().eval()
    network.decoder.classifier.weight.data[0, 0] = float("nan")
    words = r"portrait\.png: .*logits must be finite.* in .*classifier\.weight"
    with pytest.raises(NonFiniteError, match=words):
        evaluate(deploy(network) if deployed else network, data.open("val"), inference=inference)


def test_a_model_in_training_mode_is_refused(data):
    with pytest.raises(RuntimeError, match="evaluation mode"):
        evaluate(narrow().train(), data.open("val"))
