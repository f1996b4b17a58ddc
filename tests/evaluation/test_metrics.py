"""The confusion matrix is compared with sets of pixels that are counted one by one."""

import math

import numpy as np
import pytest
import torch

from segnext.evaluation.metrics import ConfusionMatrix

CLASSES = 5


def maps(seed: int, classes: int = CLASSES, ignore: int = 255) -> tuple[np.ndarray, np.ndarray]:
    """Return a prediction that is often right, and a label in which class 3 does not occur."""
    rng = np.random.default_rng(seed)
    label = rng.choice([0, 1, 2, classes - 1, ignore], (13, 17)).astype(np.uint8)
    prediction = np.where(rng.random(label.shape) < 0.6, label, rng.integers(0, classes, label.shape))
    prediction = np.where(prediction == ignore, 0, prediction).astype(np.uint8)
    return prediction, label


def measure(pairs: list[tuple[np.ndarray, np.ndarray]], classes: int = CLASSES, ignore: int = 255):
    """Return IoU and accuracy of each class and pixel accuracy, from the definitions."""
    prediction = np.concatenate([p[label != ignore] for p, label in pairs])
    label = np.concatenate([label[label != ignore] for _, label in pairs])
    iou, accuracy = [], []
    for index in range(classes):
        found, true = prediction == index, label == index
        union, both = (found | true).sum(), (found & true).sum()
        iou.append(both / union if union else math.nan)
        accuracy.append(both / true.sum() if true.any() else math.nan)
    return np.array(iou), np.array(accuracy), (prediction == label).mean()


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.int64], ids=str)
def test_measures_follow_their_definitions(dtype):
    pairs = [maps(seed) for seed in range(4)]
    confusion = ConfusionMatrix(CLASSES)
    for prediction, label in pairs:
        confusion.update(torch.from_numpy(prediction).to(dtype), torch.from_numpy(label))
    iou, accuracy, pixel_accuracy = measure(pairs)
    np.testing.assert_allclose(confusion.iou.numpy(), iou, rtol=1e-12)
    np.testing.assert_allclose(confusion.accuracy.numpy(), accuracy, rtol=1e-12)
    assert confusion.miou == pytest.approx(np.nanmean(iou))
    assert confusion.pixel_accuracy == pytest.approx(pixel_accuracy)
    assert np.isnan(accuracy[3]) and iou[3] == 0  # class 3 is predicted but never occurs


def test_precision_dice_and_weighted_iou():
    """Class 2 is never predicted, class 3 never occurs, class 4 does neither."""
    confusion = ConfusionMatrix(5)
    confusion.update(torch.tensor([[0, 0, 1, 0, 3, 0]]), torch.tensor([[0, 0, 0, 1, 2, 255]]))
    precision, dice = confusion.precision.tolist(), confusion.dice.tolist()
    assert precision[:2] == pytest.approx([2 / 3, 0]) and precision[3] == 0
    assert dice[:4] == pytest.approx([2 / 3, 0, 0, 0])
    assert math.isnan(precision[2]) and math.isnan(precision[4]) and math.isnan(dice[4])
    assert confusion.frequency_weighted_iou == pytest.approx(3 / 5 * 1 / 2)


def test_rows_are_true_classes():
    confusion = ConfusionMatrix(3)
    confusion.update(torch.tensor([[2, 2, 1]]), torch.tensor([[0, 0, 1]]))
    assert confusion.counts.tolist() == [[0, 0, 2], [0, 1, 0], [0, 0, 0]]


def test_a_class_that_never_occurs_is_left_out_of_the_mean():
    confusion = ConfusionMatrix(3)
    confusion.update(torch.tensor([[0, 1, 1, 1]]), torch.tensor([[0, 0, 1, 1]]))
    assert confusion.iou[:2].tolist() == pytest.approx([1 / 2, 2 / 3]) and math.isnan(confusion.iou[2])
    assert confusion.miou == pytest.approx((1 / 2 + 2 / 3) / 2)


def test_nothing_labelled():
    confusion = ConfusionMatrix(2)
    confusion.update(torch.zeros(3, 3, dtype=torch.uint8), torch.full((3, 3), 255, dtype=torch.uint8))
    assert not confusion.counts.any() and math.isnan(confusion.miou) and math.isnan(confusion.pixel_accuracy)


def test_another_ignored_id_and_many_classes():
    """The products of these ids overflow 16 bits, and the ignored id is one of them."""
    prediction, label = maps(7, classes=250, ignore=200)
    confusion = ConfusionMatrix(250, ignore_index=200)
    confusion.update(torch.from_numpy(prediction), torch.from_numpy(label))
    iou, _, _ = measure([(prediction, label)], 250, 200)
    np.testing.assert_allclose(confusion.iou.numpy(), iou, rtol=1e-12)


@pytest.mark.parametrize("ignore", [-100, -1, 256, 412])
def test_an_ignored_id_that_the_labels_type_cannot_hold(ignore):
    """PyTorch's default of -100 would be 156 in 8 bits."""
    label = torch.arange(250, dtype=torch.uint8).reshape(1, 10, 25)
    confusion = ConfusionMatrix(250, ignore_index=ignore)
    confusion.update(label, label)
    assert torch.equal(confusion.counts, torch.eye(250, dtype=confusion.counts.dtype))
    with pytest.raises(ValueError, match=r"ids of label must be 0\.\.249, got 255\.\.255"):
        confusion.update(torch.tensor([[0]]), torch.tensor([[255]], dtype=torch.uint8))
    with pytest.raises(ValueError, match=r"ids of label must be 0\.\.249, got -2\.\.-2"):
        ConfusionMatrix(250, ignore_index=254).update(
            torch.tensor([[0]]), torch.tensor([[-2]], dtype=torch.int8)
        )


def test_a_batch_counts_as_its_images():
    together, apart = ConfusionMatrix(CLASSES), ConfusionMatrix(CLASSES)
    predictions, labels = (torch.from_numpy(np.stack(part)) for part in zip(maps(0), maps(1), strict=True))
    together.update(predictions, labels)
    for prediction, label in zip(predictions, labels, strict=True):
        apart.update(prediction, label)
    assert torch.equal(together.counts, apart.counts) and together.counts.sum() > 0


def test_an_ignored_class_is_left_out_of_the_mean():
    """A labelled pixel that is predicted as the ignored class is an error of its own class, and of no other."""
    confusion = ConfusionMatrix(3, ignore_index=0)
    confusion.update(torch.tensor([[0, 1, 2, 2]]), torch.tensor([[1, 1, 2, 0]]))
    assert math.isnan(confusion.iou[0]) and confusion.iou[1:].tolist() == [0.5, 1.0]
    assert confusion.miou == 0.75 and confusion.accuracy.nanmean() == 0.75
    assert confusion.pixel_accuracy == pytest.approx(2 / 3)


def test_counts_are_on_the_cpu_whatever_the_default_device_is():
    with torch.device("meta"):
        confusion = ConfusionMatrix(3)
        ids = torch.zeros(1, 2, dtype=torch.uint8, device="cpu")
        confusion.update(ids, ids)
    assert confusion.counts.device.type == "cpu" and confusion.miou == 1.0


@pytest.mark.parametrize(
    ("prediction", "label", "message"),
    [
        (
            torch.zeros(2, 3),
            torch.zeros(3, 2),
            r"prediction must have the label's shape \(3, 2\), got \(2, 3\)",
        ),
        (torch.tensor([[5]]), torch.tensor([[0]]), r"ids of prediction must be 0\.\.4, got 5\.\.5"),
        (torch.tensor([[0, -1]]), torch.tensor([[0, 0]]), r"ids of prediction must be 0\.\.4, got -1\.\.0"),
        (
            torch.tensor([[0]]),
            torch.tensor([[7]]),
            r"ids of label must be 0\.\.4, got 7\.\.7; .* mark them 255",
        ),
    ],
)
def test_bad_input(prediction, label, message):
    confusion = ConfusionMatrix(CLASSES)
    with pytest.raises(ValueError, match=message):
        confusion.update(prediction, label)
    assert not confusion.counts.any()


@pytest.mark.parametrize("name", ["prediction", "label"])
def test_probabilities_are_no_class_ids(name):
    """0.9 would be counted as class 0."""
    given = {
        "prediction": torch.zeros(2, 2, dtype=torch.int64),
        "label": torch.zeros(2, 2, dtype=torch.int64),
    }
    with pytest.raises(
        TypeError, match=rf"^ConfusionMatrix: {name} must be class ids .*, got torch.float32; take"
    ):
        ConfusionMatrix(2).update(**given | {name: torch.full((2, 2), 0.9)})
