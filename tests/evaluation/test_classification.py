"""Top-1 and top-5 are exact counts, with batches of any size."""

import pytest
import torch

from segnext.data.classification import centre_crop, open_class_folders
from segnext.data.preprocessing import Preprocessing
from segnext.evaluation import classification
from segnext.evaluation.classification import evaluate_classifier, ranks_of
from segnext.models import MSCAN, build
from segnext.models.finite import NonFiniteError
from tests.data.class_folders import write_class_folders


def narrow(num_classes: int = 3) -> MSCAN:
    torch.manual_seed(0)
    model = build("mscan_t", channels=(8, 16, 24, 32), depths=(1, 1, 1, 1), num_classes=num_classes)
    assert isinstance(model, MSCAN) and model.head is not None
    torch.nn.init.normal_(model.head.weight)
    return model.eval()


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return open_class_folders(write_class_folders(tmp_path_factory.mktemp("imagenet"), 2, 5)).open("val")


def test_ranks_are_those_of_a_stable_sort():
    logits = torch.randint(
        0, 4, (200, 9), generator=torch.Generator().manual_seed(0)
    ).float()  # many are equal
    labels = torch.arange(200) % 9
    order = logits.argsort(dim=1, descending=True, stable=True)
    assert torch.equal(ranks_of(logits, labels), (order == labels[:, None]).int().argmax(1))


def test_the_counts_are_those_of_single_images(images, monkeypatch):
    monkeypatch.setattr(classification, "BATCH", 4)  # 15 images: the last batch is smaller
    model, expected, seen = narrow(9), [0, 0], []
    with torch.inference_mode():
        for image, label in (images[index] for index in range(len(images))):
            order = model(Preprocessing()(centre_crop(image, 32)))[0].argsort(descending=True).tolist()
            expected[0] += order[0] == label
            expected[1] += label in order[:5]
    result = evaluate_classifier(model, images, side=32, after_batch=seen.append)
    assert list(result.hits) == expected and expected[1] > 0 and seen == [4, 4, 4, 3]
    assert result.summary()["top1"] == pytest.approx(expected[0] / 15, abs=1e-6)


def test_five_of_three_classes_are_all(images):
    assert evaluate_classifier(narrow(), images, side=32).top5 == 1


def test_logits_that_are_not_finite_name_the_image(images):
    model = narrow()
    assert model.head is not None
    model.head.bias.data[1] = torch.nan
    with pytest.raises(NonFiniteError, match=r"1000\.JPEG: mscan_t: logits must be finite.*head\.bias"):
        evaluate_classifier(model, images, side=32)
