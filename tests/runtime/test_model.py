"""The C++ runtime gives the logits and masks of the Python package, to the bit, and says what it cannot do."""

from __future__ import annotations

import ctypes
import itertools
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from segnext import DeployedSegNeXt, Predictor, create_model, deploy
from segnext.data.images import read_image
from segnext.data.preprocessing import normalise
from segnext.models import SegNeXt
from segnext.predict.inference import Inference
from segnext_kernels import native
from tests.instruction_sets import use_instruction_set
from tests.models.narrow import narrow, used
from tests.runtime import built
from tests.runtime.interface import (
    BAD_FILE,
    BFLOAT16,
    FLOAT32,
    INVALID_ARGUMENT,
    NON_FINITE,
    UNSUPPORTED,
    Failure,
    Library,
)

STREET = built.ROOT / "docs" / "street.jpg"
MODELS: dict[str, dict[str, Any]] = {
    "published": {},
    "other-sizes": dict(
        channels=(6, 10, 24, 40), depths=(2, 1, 3, 1), expansions=(2, 3, 1, 4), rank=5, eval_steps=3
    ),
    "other-strips": dict(strips=(3, 9), root=7),
    "no-strips": dict(strips=()),
    "no-mix": dict(mix=False),
    "stages-0-and-2": dict(in_indices=(0, 2)),
    "all-stages": dict(in_indices=(0, 1, 2, 3)),
    "one-stage": dict(decoder="cnn"),
    "no-context": dict(context=None),
    "threshold": dict(num_classes=2, threshold=0.3),
    "300-classes": dict(num_classes=300),
    "5-channels": dict(in_channels=5),
}
SIZES = ((1, 64, 96), (3, 33, 47), (1, 1, 1), (1, 130, 5))


@pytest.fixture(scope="module")
def library() -> Library:
    return Library(built.library())


@pytest.fixture(autouse=True)
def _same_instruction_set(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    use_instruction_set(native.INSTRUCTION_SETS.index(built.instruction_set()), monkeypatch)


def saved(fast: DeployedSegNeXt, folder: Path) -> Path:
    fast.save(folder / "model.safetensors")
    return folder / "model.safetensors"


def noise(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(7))


def photo(height: int, width: int, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(height * width).integers(0, 256, (height, width, channels), np.uint8)


@pytest.mark.parametrize("threads_of_both", [1, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("name", MODELS)
def test_logits_and_masks_are_those_of_python(
    library: Library, name: str, dtype: torch.dtype, threads_of_both: int, threads: None, tmp_path: Path
) -> None:
    torch.set_num_threads(threads_of_both)
    fast = deploy(used(**MODELS[name]), dtype)
    model = library.open(saved(fast, tmp_path), threads=threads_of_both)
    channels = fast.config.in_channels
    for batch, height, width in SIZES:
        images = noise(batch, channels, height, width)
        expected = fast.forward_logits(images).numpy()
        assert np.isfinite(expected).all() and (expected.size < 100 or expected.std() > 0)
        np.testing.assert_array_equal(model.logits(images.numpy()), expected)
        if channels == 3:
            pixels = photo(height, width)
            expected = fast.predict(normalise(pixels))[0].numpy()
            mask = model.predict(pixels)
            assert mask.dtype == expected.dtype
            np.testing.assert_array_equal(mask, expected)


@pytest.mark.parametrize("size", ["t", "b"])
def test_published_sizes(library: Library, size: str, tmp_path: Path) -> None:
    """B has other depths and a decoder of other width than T."""
    built_model = create_model(f"segnext_{size}", num_classes=19)
    assert isinstance(built_model, SegNeXt)
    fast = deploy(built_model.eval())
    images = noise(1, 3, 72, 104)
    model = library.open(saved(fast, tmp_path), threads=torch.get_num_threads())
    np.testing.assert_array_equal(model.logits(images.numpy()), fast.forward_logits(images).numpy())


def test_a_photograph_as_the_predictor_sees_it(library: Library, tmp_path: Path) -> None:
    """The runtime does not resize: the Predictor is told to do neither."""
    camvid = create_model(weights="camvid").eval()
    assert isinstance(camvid, SegNeXt)
    pixels = np.asarray(read_image(STREET))[:301, :455]
    model = library.open(saved(deploy(camvid), tmp_path), threads=torch.get_num_threads())
    prediction = Predictor(camvid, device="cpu", inference=Inference(short_side=0))(pixels.copy())
    mask = model.predict(pixels)  # a part of a larger image: its rows have gaps
    assert pixels.strides[0] > 3 * pixels.shape[1] and len(np.unique(mask)) > 4
    np.testing.assert_array_equal(mask, prediction.mask)
    assert model.classes == list(prediction.classes)
    palette = model.palette
    assert palette is not None
    np.testing.assert_array_equal(palette, prediction.palette)


def test_what_a_file_does_not_say(library: Library, tmp_path: Path) -> None:
    model = library.open(saved(deploy(narrow()), tmp_path))
    assert model.classes == ["class 0", "class 1", "class 2"] and model.palette is None
    assert library.c.segnext_class_name(model.handle, 3) is None
    assert library.c.segnext_class_name(model.handle, -1) is None


def test_dtype_can_be_chosen(library: Library, tmp_path: Path) -> None:
    network = used()
    in_dtype = {FLOAT32: deploy(network), BFLOAT16: deploy(network, torch.bfloat16)}
    path, images = saved(in_dtype[BFLOAT16], tmp_path), noise(1, 3, 40, 50)
    for dtype, fast in in_dtype.items():
        result = library.open(path, dtype, threads=torch.get_num_threads()).logits(images.numpy())
        np.testing.assert_array_equal(result, fast.forward_logits(images).numpy())


def test_several_calls_at_once(library: Library, tmp_path: Path) -> None:
    """Of one shape, whose plans are separate, and of more shapes than plans are kept for."""
    model = library.open(saved(deploy(used()), tmp_path))
    shapes = (
        *[(200, 260)] * 4,
        (40, 90),
        (33, 31),
    )  # a call of the first takes longer than a thread's time slice
    pixels = [photo(*shape) + np.uint8(50 * i) for i, shape in enumerate(shapes)]
    expected = [model.predict(one) for one in pixels]
    with ThreadPoolExecutor(4) as pool:
        order = list(itertools.islice(itertools.cycle(range(len(pixels))), 48))
        for i, mask in zip(order, pool.map(lambda i: model.predict(pixels[i]), order), strict=True):
            np.testing.assert_array_equal(mask, expected[i])


def test_logits_that_are_not_finite_are_no_classes(library: Library, tmp_path: Path) -> None:
    network = used()
    with torch.no_grad():
        network.decoder.classifier.weight.fill_(3e38)
    model = library.open(saved(deploy(network), tmp_path))
    with pytest.raises(
        Failure, match=r"segnext_predict: logits must be finite, got \d+ of 72 that"
    ) as failure:
        model.predict(photo(24, 64))
    assert failure.value.status == NON_FINITE
    assert not np.isfinite(model.logits(noise(1, 3, 24, 64).numpy())).all()


def test_arguments_out_of_range(library: Library, tmp_path: Path) -> None:
    path = saved(deploy(narrow()), tmp_path)
    model = library.open(path)
    handle, pixels = model.handle, photo(4, 5)
    mask, numbers = np.zeros((4, 5), np.uint8), np.zeros(60, np.float32)
    image, labels, floats = pixels.ctypes.data, mask.ctypes.data, numbers.ctypes.data
    shape, out, name = (ctypes.c_int64 * 3)(), ctypes.c_void_p(), str(path).encode()
    predict, logits, open_ = "segnext_predict", "segnext_logits", "segnext_open"
    calls: list[tuple[str, tuple[Any, ...], str]] = [
        (predict, (handle, image, 0, 5, 0, labels), "height must be from 1 to 65536, got 0"),
        (predict, (handle, image, 4, -5, 0, labels), "width must be from 1 to 65536, got -5"),
        (predict, (handle, image, 4, 5, 14, labels), "row_bytes must be 0 or at least 15, got 14"),
        (predict, (handle, image, 4, 5, -15, labels), "row_bytes must be 0 or at least 15, got -15"),
        (predict, (handle, None, 4, 5, 0, labels), "pixels must be given, got NULL"),
        (predict, (handle, image, 4, 5, 0, None), "mask must be given, got NULL"),
        (predict, (None, image, 4, 5, 0, labels), "model must be given, got NULL"),
        (logits, (handle, floats, 0, 4, 5, floats), "batch must be from 1 to 65536, got 0"),
        (
            logits,
            (handle, floats, 65536, 65536, 32, floats),
            "the pixels of a batch must be at most 2^36, got 137438953472",
        ),
        ("segnext_logits_shape", (handle, 65537, 5, shape), "height must be from 1 to 65536, got 65537"),
        (open_, (name, 3, 1, ctypes.byref(out)), "dtype must be a segnext_dtype, got 3"),
        (open_, (name, 0, -1, ctypes.byref(out)), "threads must be from 0 to 1024, got -1"),
        (open_, (None, 0, 1, ctypes.byref(out)), "path must be given, got NULL"),
    ]
    for function, arguments, message in calls:
        with pytest.raises(Failure) as failure:
            library.expect(getattr(library.c, function)(*arguments))
        assert str(failure.value) == f"{function}: {message}"
        assert failure.value.status == INVALID_ARGUMENT
    assert out.value is None
    model.predict(pixels)  # it still works


def test_channels_without_statistics(library: Library, tmp_path: Path) -> None:
    model = library.open(saved(deploy(narrow(in_channels=5)), tmp_path))
    with pytest.raises(
        Failure, match="mean and std of its 5 channels, got 3; normalise the image and"
    ) as failure:
        model.predict(photo(9, 9, 5))
    assert failure.value.status == UNSUPPORTED


@pytest.mark.parametrize("name", ["neon", "avx", "amx"])
def test_an_instruction_set_that_is_not_there(
    library: Library, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = saved(deploy(narrow(), torch.bfloat16), tmp_path)
    monkeypatch.setenv("SEGNEXT_CPU_ISA", name)
    with pytest.raises(Failure, match="cannot run: SEGNEXT_CPU_ISA") as failure:
        library.open(path)
    assert failure.value.status == UNSUPPORTED and failure.value.args[0].count("\n") == 0


def test_the_example_segments_a_photograph(library: Library, tmp_path: Path) -> None:
    camvid = create_model(weights="camvid").eval()
    fast = deploy(camvid)
    path, pixels = saved(fast, tmp_path), np.asarray(read_image(STREET))[-200:, :300]
    Image.fromarray(pixels).save(tmp_path / "photo.ppm")
    segment = built.ROOT / "build" / "runtime" / "quick" / "segment"
    words = (segment, path, tmp_path / "photo.ppm", tmp_path / "mask.pgm", "--repeat", "2")
    said = built.run(*words, OMP_NUM_THREADS=str(torch.get_num_threads()))
    expected = fast.predict(normalise(pixels.copy()))[0].numpy()
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "mask.pgm")), expected)
    assert said.startswith("300 x 200 pixels, 11 classes\n") and said.count(" ms\n") == 2
    share = 100 * (expected == fast.metadata["classes"].index("road")).mean()
    assert f"{share:5.1f} % road" in said
    with pytest.raises(
        AssertionError, match=r"^segment: segnext_open: .*nothing.safetensors must be a file, got none"
    ):
        built.run(segment, tmp_path / "nothing.safetensors", tmp_path / "photo.ppm", tmp_path / "mask.pgm")


def test_messages_belong_to_their_thread(library: Library, tmp_path: Path) -> None:
    def message(name: str) -> str:
        with pytest.raises(Failure) as failure:
            library.open(tmp_path / name)
        assert failure.value.status == BAD_FILE
        return str(failure.value)

    with ThreadPoolExecutor(4) as pool:
        for name, said in zip(map(str, range(40)), pool.map(message, map(str, range(40))), strict=True):
            assert f"/{name} must be a file" in said
