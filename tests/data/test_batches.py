"""Batches are a pure function of seed and step, whatever loads them."""

import re
import threading
from collections import Counter

import numpy as np
import pytest
import torch

from segnext.data.batches import Batch, TrainingBatches
from segnext.data.config import load_data_config
from segnext.data.images import ImageError
from segnext.data.preprocessing import Preprocessing
from segnext.data.transforms import Augmentation
from tests.data.synthetic import scene, write_data_set


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return load_data_config(write_data_set(tmp_path_factory.mktemp("houses"))).open("train")


def batches(dataset, batch_size: int = 3, seed: int = 0) -> TrainingBatches:
    return TrainingBatches(dataset, Augmentation(24, (0.5, 1.5)), batch_size, seed)


def equal(first: Batch, second: Batch) -> bool:
    return (
        torch.equal(first.images, second.images)
        and torch.equal(first.labels, second.labels)
        and first.files == second.files
    )


def test_a_batch_is_bytes_in_channels_last(dataset):
    batch = batches(dataset).batch(0)
    assert batch.images.shape == (3, 3, 24, 24) and batch.labels.shape == (3, 24, 24)
    assert batch.images.dtype == batch.labels.dtype == torch.uint8
    assert batch.images.is_contiguous(memory_format=torch.channels_last)
    assert len(batch.files) == 3


@pytest.mark.parametrize("workers", [0, 1, 4])
def test_workers_and_the_first_step_change_nothing(dataset, workers):
    expected = [batches(dataset).batch(step) for step in range(9)]
    assert all(map(equal, batches(dataset).iterate(0, 9, workers), expected))
    resumed = list(batches(dataset).iterate(4, 9, workers))
    assert len(resumed) == 5 and all(map(equal, resumed, expected[4:]))


def test_every_epoch_shows_every_image_once_in_another_order(dataset):
    files = [file for batch in batches(dataset).iterate(0, 10) for file in batch.files]
    epochs = [files[start : start + 5] for start in range(0, 30, 5)]
    assert all(Counter(epoch) == Counter(image for image, _ in dataset.pairs) for epoch in epochs)
    assert len(set(map(tuple, epochs))) > 1


def test_the_seed_decides(dataset):
    first, second = batches(dataset, seed=1).batch(0), batches(dataset, seed=2).batch(0)
    assert not torch.equal(first.images, second.images)
    again = TrainingBatches(dataset, Augmentation(24, (0.5, 1.5)), 3, 1)
    assert equal(first, again.batch(0))


def test_an_image_looks_different_in_every_epoch(dataset):
    views: dict = {}
    for batch in batches(dataset, batch_size=5).iterate(0, 4):
        for file, image in zip(batch.files, batch.images, strict=True):
            views.setdefault(file, set()).add(image.numpy().tobytes())
    assert [len(seen) for seen in views.values()] == [4] * 5


def test_files_are_those_of_the_images(dataset):
    whole = TrainingBatches(dataset, Augmentation(48, (1, 1), flip=False, distort=False), 5, 0).batch(0)
    for file, image, label in zip(whole.files, whole.images, whole.labels, strict=True):
        expected_image, expected_label = scene(int(file.stem.removeprefix("scene")))
        np.testing.assert_array_equal(image.permute(1, 2, 0)[:40], expected_image)
        np.testing.assert_array_equal(label[:40], expected_label)


def test_padding_is_0_for_the_network_and_the_rest_is_normalised(dataset):
    batch = TrainingBatches(dataset, Augmentation(64, (0.5, 0.5)), 2, 0).batch(0)
    height, width = batch.sizes[0]
    assert (height, width) == (20, 24)
    preprocessing = Preprocessing((30.0, 60.0, 90.0), (2.0, 3.0, 4.0))
    images = batch.normalised(preprocessing)
    torch.testing.assert_close(
        images[:, :, :20, :24], preprocessing(batch.images)[:, :, :20, :24], rtol=0, atol=0
    )
    assert not images[:, :, 20:].any() and not images[:, :, :, 24:].any()


def test_a_broken_image_is_named_and_threads_end(tmp_path):
    dataset = load_data_config(write_data_set(tmp_path)).open("train")
    broken = dataset.pairs[2][0]
    broken.write_bytes(b"")
    with pytest.raises(ImageError, match=re.escape(str(broken))):
        list(batches(dataset).iterate(0, 4, workers=2))
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("segnext-data")]


def test_threads_end_with_an_abandoned_iteration(dataset):
    iterator = batches(dataset).iterate(0, 1000, workers=2)
    next(iterator)
    assert [thread for thread in threading.enumerate() if thread.name.startswith("segnext-data")]
    iterator.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("segnext-data")]
