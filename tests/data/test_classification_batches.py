"""Batches of a classification are functions of seed and step; views, erasing and mixing are what the papers say."""

import numpy as np
import pytest
import torch
from PIL import Image

from segnext.data.classification import open_class_folders
from segnext.data.classification_batches import ClassificationBatches
from segnext.data.classification_views import ClassAugmentation, crop_box, draw_erased
from segnext.data.mixing import Mix, Mixing
from segnext.data.preprocessing import Preprocessing
from segnext.data.rand_augment import OPERATIONS, RandAugment
from tests.data.class_folders import write_class_folders

PLAIN = ClassAugmentation(32, (1.0, 1.0), flip=False, rand_augment=None, erase=0)


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return open_class_folders(write_class_folders(tmp_path_factory.mktemp("imagenet"), 4, 1)).open("train")


def batches(images, augmentation=None, mixing=None, **options):
    options = {"batch_size": 6, "seed": 1, **options}
    return ClassificationBatches(
        images, 3, augmentation or ClassAugmentation(32), mixing or Mixing(), **options
    )


def test_a_batch_is_a_function_of_seed_and_step(images):
    ahead = list(batches(images).iterate(0, 5, workers=3))
    one = batches(images).batch(4)
    mine, theirs = (batch.normalised(Preprocessing()) for batch in (one, ahead[4]))
    assert torch.equal(mine, theirs) and torch.equal(one.labels, ahead[4].labels)
    other = batches(images, seed=2).batch(4)
    assert not torch.equal(mine, other.normalised(Preprocessing()))
    assert mine.shape == (6, 3, 32, 32) and mine.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("repeats", [1, 3])
def test_each_image_is_seen_in_several_views_in_a_row(images, repeats):
    files = [file for batch in batches(images, repeats=repeats).iterate(0, 2) for file in batch.files]
    assert len(set(files)) == 12 // repeats  # an epoch of 12 samples
    assert all(len(set(files[n : n + repeats])) == 1 for n in range(0, 12, repeats))


def test_targets_without_mixing(images):
    batch = batches(images, PLAIN, Mixing(0, 0), smoothing=0.3).batch(0)
    rows = {tuple(round(value, 4) for value in row) for row in batch.labels.tolist()}
    assert rows <= {(0.8, 0.1, 0.1), (0.1, 0.8, 0.1), (0.1, 0.1, 0.8)}
    assert torch.equal(batch.normalised(Preprocessing()), Preprocessing()(batch.images))


def test_mixup_blends_images_and_labels_alike():
    images = torch.tensor([0.0, 1.0, 2.0]).view(3, 1, 1, 1).repeat(1, 3, 4, 4)
    mixed = Mix(0.75).images(images.clone())
    assert mixed[:, 0, 0, 0].tolist() == [0.5, 1.0, 1.5]
    targets = Mix(0.75).targets(torch.tensor([0, 1, 2]), 3, 0.0)
    assert targets.tolist() == [[0.75, 0, 0.25], [0, 1, 0], [0.25, 0, 0.75]]


def test_cutmix_takes_a_rectangle_and_its_share_of_the_label():
    cuts = [Mixing(mixup=0).draw(16, np.random.default_rng(seed)) for seed in range(50)]
    for mix in cuts:
        mixed = mix.images(torch.tensor([0.0, 1.0]).view(2, 1, 1, 1).repeat(1, 3, 16, 16))
        assert mixed[0].mean().item() == pytest.approx(1 - mix.share)
    assert len({mix.box for mix in cuts}) > 30


def test_one_batch_in_two_is_cut():
    drawn = [Mixing().draw(32, np.random.default_rng(seed)) for seed in range(400)]
    assert 160 < sum(mix.box is not None for mix in drawn) < 240
    assert all(0 <= mix.share <= 1 for mix in drawn)
    assert Mixing(0, 0).draw(32, np.random.default_rng(0)) == Mix(1.0)


def test_crops_have_the_areas_and_aspects_that_were_asked_for():
    rng = np.random.default_rng(0)
    boxes = np.array([crop_box(500, 375, (0.08, 1.0), rng) for _ in range(400)])
    left, top, width, height = boxes.T
    assert (left >= 0).all() and (left + width <= 500).all() and (top + height <= 375).all()
    share, aspect = width * height / (500 * 375), width / height
    assert 0.079 < share.min() < 0.15 and 0.8 < share.max() <= 1
    assert 0.74 < aspect.min() < 0.8 and 1.25 < aspect.max() < 1.35
    assert crop_box(1000, 10, (0.9, 1.0), rng) == (493, 0, 13, 10)  # none fits: the centre


def test_erased_rectangles_are_noise_of_the_normalised_image(images):
    rng = np.random.default_rng(0)
    drawn = [draw_erased(32, rng) for _ in range(200)]
    sizes = np.array([erased.noise.shape for erased in drawn if erased])
    assert sizes.max() < 32 and 0.01 < sizes[:, :2].prod(1).min() / 1024 < 0.06
    augmentation = ClassAugmentation(32, (1.0, 1.0), flip=False, rand_augment=None, erase=1)
    batch = batches(images, augmentation, Mixing(0, 0)).batch(0)
    image, erased = batch.normalised(Preprocessing())[0], batch.erased[0]
    height, width, _ = erased.noise.shape
    part = image[:, erased.top : erased.top + height, erased.left : erased.left + width]
    np.testing.assert_array_equal(part.permute(1, 2, 0).numpy(), erased.noise)


@pytest.mark.parametrize("name", OPERATIONS)
def test_each_operation_changes_an_image_and_keeps_its_size(name):
    image = Image.fromarray(np.random.default_rng(0).integers(40, 200, (24, 32, 3), np.uint8))
    for sign in (1.0, -1.0):
        changed = OPERATIONS[name](image, 0.9, sign, (1, 2, 3))
        assert changed.size == image.size and changed.mode == "RGB"
        assert not np.array_equal(np.asarray(changed), np.asarray(image))


def test_strong_and_weak_operations():
    image = Image.fromarray(np.full((8, 8, 3), 100, np.uint8))
    assert np.asarray(OPERATIONS["solarize_add"](image, 0.9, 1.0, (0, 0, 0)))[0, 0, 0] == 199
    assert np.asarray(OPERATIONS["posterize"](image, 0.9, 1.0, (0, 0, 0)))[0, 0, 0] == 100 & 0x80
    moved = np.asarray(OPERATIONS["translate_x"](image, 1.0, 1.0, (9, 9, 9)))
    assert moved[0, :, 0].tolist() == [100, 100, 100, 100, 9, 9, 9, 9]  # 3.6 pixels come from outside


def test_rand_augment_leaves_a_quarter_of_the_images_as_they_are():
    image = Image.fromarray(np.random.default_rng(0).integers(20, 200, (16, 16, 3), np.uint8))
    same = [
        RandAugment()(image, np.random.default_rng(seed)).tobytes() == image.tobytes() for seed in range(300)
    ]
    assert 50 < sum(same) < 110  # 75, and those with few grey levels to lose


def test_a_scale_of_a_segmentation_is_refused():
    with pytest.raises(ValueError, match="HIGH <= 1 for a classification"):
        ClassAugmentation(scale=(0.5, 1.5))


def test_processes_share_a_batch(images):
    whole = batches(images).batch(2)
    shares = [batches(images, rank=rank, ranks=2).batch(2) for rank in (0, 1)]
    assert shares[0].files + shares[1].files == whole.files
    assert torch.equal(torch.cat([share.images for share in shares]), whole.images)
    assert shares[0].mix != shares[1].mix


def test_an_image_that_cannot_be_read_gives_way_to_the_next(tmp_path):
    root = write_class_folders(tmp_path / "imagenet", 2, 1)
    data = open_class_folders(root).open("train")
    data.file(3).write_bytes(b"no image")
    drawn = batches(data, PLAIN, repeats=1)
    with pytest.raises(ValueError, match=data.file(3).name):
        [drawn.batch(step) for step in range(3)]
    drawn.skips = True
    seen = {file for step in range(3) for file in drawn.batch(step).files}
    assert data.file(3) not in seen and list(drawn.skipped) == [data.file(3)]
