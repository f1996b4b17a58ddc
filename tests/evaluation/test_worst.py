"""The images that are predicted worst are kept, and drawn beside their labels."""

import csv
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from segnext.data.config import load_data_config
from segnext.evaluation.evaluate import Predicted
from segnext.evaluation.metrics import ConfusionMatrix
from segnext.evaluation.worst import LARGEST_PANEL, LINE, WorstImages, draw_triple, save_worst
from tests.data.synthetic import COLOURS, scene, write_data_set, write_pair


def predicted(name: str, mask: list[int], label: list[int], folder: Path = Path("val")) -> Predicted:
    ids = torch.tensor([mask], dtype=torch.uint8)
    confusion = ConfusionMatrix(3)
    confusion.update(ids, torch.tensor([label], dtype=torch.uint8))
    return Predicted(folder / name, folder / f"{name}.label", ids, confusion)


def test_the_lowest_scores_stay_in_order():
    worst = WorstImages(4)
    for one in (
        predicted("right", [0, 1], [0, 1]),
        predicted("b", [0, 0, 0, 0], [1, 1, 0, 0]),  # mIoU 0.25, accuracy 0.5
        predicted("unlabelled", [0, 1], [255, 255]),
        predicted("wrong", [0, 0], [1, 1]),
        predicted("a", [0, 0, 0, 0], [1, 1, 0, 0]),
        predicted("better", [0, 0, 0, 1], [0, 0, 1, 1]),
        predicted("less right", [0, 0, 0, 0, 0, 0], [0, 0, 0, 1, 1, 1]),  # as "b"
    ):
        worst.look(one)
    ranked = worst.ranked()
    assert [scored.image_file.name for scored in ranked] == ["wrong", "a", "b", "less right"]
    assert (ranked[0].miou, ranked[0].pixel_accuracy) == (0, 0) and ranked[1].miou == 0.25
    assert ranked[1].mask.tolist() == [[0, 0, 0, 0]]


def test_equal_miou_goes_by_pixel_accuracy():
    worst = WorstImages(1)
    worst.look(predicted("a", [0, 0, 1, 0], [0, 0, 0, 1]))  # IoU 1/2 and 0
    worst.look(predicted("z", [0, 0, 0], [1, 1, 0]))  # 1/3 and 0
    assert worst.ranked()[0].image_file.name == "z"
    worst = WorstImages(1)
    worst.look(predicted("a", [0, 0, 0], [0, 1, 1]))  # mIoU 1/6, accuracy 1/3
    worst.look(predicted("z", [0, 1, 1, 2], [0, 2, 2, 2]))  # 1, 0, 1/3
    worst.look(predicted("y", [0, 1, 0, 1, 0, 0], [0, 0, 0, 0, 0, 1]))  # 1/2, 0
    assert worst.ranked()[0].image_file.name == "a"


def test_pictures_and_list(tmp_path):
    yaml = write_data_set(tmp_path / "set", val=0, train=3)
    write_pair(tmp_path / "set", "val", "large", *scene(9, 700, 2000))
    write_pair(tmp_path / "set", "val", "sm\u00e4ll", *scene(8))
    config = load_data_config(yaml)
    dataset, worst = config.open("val"), WorstImages(5)
    for index, (image_file, label_file) in enumerate(dataset.pairs):
        label = torch.from_numpy(dataset[index][1])
        mask = torch.zeros_like(label)
        confusion = ConfusionMatrix(3)
        confusion.update(mask, label)
        worst.look(Predicted(image_file, label_file, mask, confusion))
    save_worst(tmp_path / "worst", worst.ranked(), dataset, config.palette)
    rows = list(csv.DictReader((tmp_path / "worst" / "worst.csv").open(encoding="utf-8")))
    assert sorted(row["picture"][2:] for row in rows) == ["large.png", "sm\u00e4ll.png"]
    assert [row["miou"] for row in rows] == [f"{scored.miou:.6f}" for scored in worst.ranked()]
    assert all(Path(row["image"]).is_file() and Path(row["label"]).is_file() for row in rows)
    pictures = {path.name for path in (tmp_path / "worst").iterdir()}
    assert pictures == {"worst.csv", *(row["picture"] for row in rows)}
    (large,) = (name for name in pictures if "large" in name)
    with Image.open(tmp_path / "worst" / large) as picture:
        assert picture.size == (3 * LARGEST_PANEL, 336 + 3 * LINE)


def test_panels_show_photograph_label_and_prediction():
    image, label = scene(3, 60, 200)
    one = predicted("photo.png", [0], [0])
    worst = WorstImages(1)
    worst.look(one)
    (scored,) = worst.ranked()
    object.__setattr__(scored, "mask", np.full(label.shape, 2, np.uint8))
    picture = np.asarray(draw_triple(image, label, scored, COLOURS.tolist(), 255)).astype(int)[3 * LINE :]
    photograph, truth, guess = np.split(picture, 3, axis=1)
    np.testing.assert_array_equal(photograph, image)
    np.testing.assert_allclose(guess[:-1, :-1], (image[:-1, :-1] + COLOURS[2].astype(int)) / 2, atol=1)
    np.testing.assert_allclose(truth[0, 0] - 170, image[0, 0] // 6, atol=1)  # an ignored pixel at a border
    ground = np.argwhere(label == 0)[-1]
    np.testing.assert_allclose(
        truth[tuple(ground)], (image[tuple(ground)] + COLOURS[0].astype(int)) / 2, atol=1
    )
