"""Times whole models against plain PyTorch and other runtimes: image to mask, image to logits, a training step."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial

import pytest
import torch

from bench import fresh_process
from bench.comparison import Comparison
from bench.models import networks, training
from bench.models.checks import assert_best_class, assert_close, assert_labels_agree
from bench.models.networks import CLASSES, fitted_pair, image, pair, plain_build
from bench.models.training import Training, assert_same_step, model_training, plain_training
from bench.peers import bfloat16_peers, float32_peers
from bench.results import OURS, Row
from bench.roofline import counted_flops
from oracle import transcription
from oracle.inputs import in_layout
from segnext import deploy
from segnext_kernels import native

SIDE = 512
EAGER = "eager channels_last"
BUSY = "beside one busy process, fp32"


@pytest.fixture
def busy_core() -> Iterator[None]:
    """Keep one core busy with another process, as machines that are shared have it."""
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as process:
        yield
        process.kill()


@pytest.mark.parametrize("size", ["t", "b"])
def test_image_to_mask(size: str, compare: Comparison) -> None:
    compare_masks(compare, "models, fp32", size, CLASSES, SIDE, SIDE)


@pytest.mark.usefixtures("busy_core")
def test_image_to_mask_beside_a_busy_process(compare: Comparison) -> None:
    compare_masks(compare, BUSY, "t", CLASSES, SIDE, SIDE)


@pytest.mark.usefixtures("needs_all")
@pytest.mark.parametrize("size", ["s", "l"])
def test_image_to_mask_of_the_other_sizes(size: str, compare: Comparison) -> None:
    compare_masks(compare, "models, fp32", size, CLASSES, SIDE, SIDE)


def test_image_to_mask_large(compare: Comparison) -> None:
    """Time one frame of a street scene, where memory counts."""
    row = compare_masks(compare, "models, fp32", "t", 19, 1024, 2048)
    if row is not None:
        arguments = ("t", 19, 1024, 2048)
        row.notes["fresh"] = {
            OURS: fresh_process.measure(networks.our_masks, *arguments).as_json(),
            EAGER: fresh_process.measure(networks.eager_masks, *arguments).as_json(),
        }


def compare_masks(
    compare: Comparison, table: str, size: str, classes: int, height: int, width: int
) -> Row | None:
    model, state_dict = pair(size, classes)
    images, bases = image(height, width), model.decoder.hamburger.bases
    with torch.inference_mode():
        oracle = transcription.logits(state_dict, bases, images)
    peers = dict(float32_peers(plain_build(partial(transcription.mask, axis=-1), state_dict, bases, images)))
    if size == "l":
        # it compiles for minutes, and was never the fastest with the smaller models
        del peers["torch.compile"]
    ours = deploy(model, torch.float32)
    return compare(
        table,
        f"{size.upper()} {height}x{width}, {classes} classes, to the mask",
        lambda: ours.predict(images),
        plain_build(transcription.mask, state_dict, bases, images),
        lambda variant, output: assert_best_class(output, oracle, variant),
        peers=peers,
        flops=counted_flops(lambda: model.forward_logits(images)),
    )


@pytest.mark.parametrize("size", ["t", "b"])
def test_image_to_logits(size: str, compare: Comparison) -> None:
    model, state_dict = pair(size)
    images, bases = image(SIDE), model.decoder.hamburger.bases
    with torch.inference_mode():
        oracle = transcription.logits(state_dict, bases, images)
    ours = deploy(model, torch.float32)
    compare(
        "models, fp32",
        f"{size.upper()} {SIDE}x{SIDE}, {CLASSES} classes, logits at H/8",
        lambda: ours.forward_logits(images),
        plain_build(transcription.logits, state_dict, bases, images),
        lambda variant, output: assert_close(output, oracle, variant),
        peers=float32_peers(),
        flops=counted_flops(lambda: model.forward_logits(images)),
    )


@pytest.mark.parametrize(
    ("size", "classes", "height", "width"),
    [("t", CLASSES, SIDE, SIDE), ("b", CLASSES, SIDE, SIDE), ("t", 19, 1024, 2048)],
)
def test_image_to_mask_bf16(size: str, classes: int, height: int, width: int, compare: Comparison) -> None:
    model, state_dict, images = fitted_pair(size, classes, height, width)
    bases = model.decoder.hamburger.bases
    with torch.inference_mode():
        oracle = transcription.logits(state_dict, bases, images)
    both = (transcription.mask, partial(transcription.mask, axis=-1))
    ours = deploy(model, torch.bfloat16)
    compare(
        "models, bf16",
        f"{size.upper()} {height}x{width}, {classes} classes, to the mask",
        lambda: ours.predict(images),
        plain_build(transcription.mask, state_dict, bases, images, torch.bfloat16),
        lambda variant, output: assert_labels_agree(output, oracle, variant),
        peers=bfloat16_peers(*(plain_build(function, state_dict, bases, images) for function in both)),
        required=(),
    )


@pytest.mark.parametrize("size", ["t", "b"])
def test_image_to_mask_of_pieces(size: str, compare: Comparison) -> None:
    """Time float32 whose products are of bfloat16 pieces, against the others' float32."""
    if (reason := native.reason_against_tiles()) is not None:
        pytest.skip(f"float32 products of bfloat16 pieces need AMX: {reason}")
    model, state_dict, images = fitted_pair(size, CLASSES, SIDE, SIDE)
    bases = model.decoder.hamburger.bases
    with torch.inference_mode():
        oracle = transcription.logits(state_dict, bases, images)
    ours = deploy(model, matmul_precision="high")
    compare(
        "models, fp32 of bf16 pieces",
        f"{size.upper()} {SIDE}x{SIDE}, {CLASSES} classes, to the mask",
        lambda: ours.predict(images),
        plain_build(transcription.mask, state_dict, bases, images),
        lambda variant, output: assert_best_class(output, oracle, variant),
        peers=float32_peers(plain_build(partial(transcription.mask, axis=-1), state_dict, bases, images)),
    )


def test_training_step(compare: Comparison) -> None:
    row, runs = compare_training(compare, "training step, fp32")
    if row is not None:
        row.notes["losses"] = {variant: training.losses for variant, training in runs.items()}
        row.notes["fresh"] = {
            OURS: fresh_process.measure(training.our_training).as_json(),
            EAGER: fresh_process.measure(training.eager_training).as_json(),
        }


@pytest.mark.usefixtures("busy_core")
def test_training_step_beside_a_busy_process(compare: Comparison) -> None:
    compare_training(compare, BUSY)


def compare_training(compare: Comparison, table: str) -> tuple[Row | None, dict[str, Training]]:
    """Time forward, backward and AdamW. Dropout and drop path are off, so that both sides compute the same."""
    model, state_dict = pair("t", drop_path=0.0, decoder_dropout=0.0)
    images, targets = training.training_batch()
    oracle = plain_training(state_dict, model, images, targets).step()
    runs: dict[str, Training] = {}

    def build(layout: torch.memory_format) -> tuple[Callable[[], Training], tuple[()]]:
        training = plain_training(in_layout(state_dict, layout), model, in_layout(images, layout), targets)
        return training.step, ()

    def check(variant: str, training: Training) -> None:
        runs[variant] = training
        assert_same_step(training, oracle, variant)

    row = compare(
        table,
        f"T 4x256x256, {CLASSES} classes, AdamW",
        model_training(model, images, targets).step,
        build,
        check,
        inference=False,
        flops=3 * counted_flops(lambda: model.forward_logits(images)),
    )
    return row, runs


def test_training_step_bf16(compare: Comparison) -> None:
    """Time the same step under autocast. Errors are compared with those of eager PyTorch under autocast."""
    model, state_dict = pair("t", drop_path=0.0, decoder_dropout=0.0)
    images, targets = training.training_batch()
    oracle = plain_training(state_dict, model, images, targets).step()
    half = torch.bfloat16
    eager = plain_training(in_layout(state_dict, torch.channels_last), model, images, targets, half).step()

    def build(layout: torch.memory_format) -> tuple[Callable[[], Training], tuple[()]]:
        own = in_layout(state_dict, layout)
        return plain_training(own, model, in_layout(images, layout), targets, half).step, ()

    compare(
        "training step, bf16 autocast",
        f"T 4x256x256, {CLASSES} classes, AdamW",
        model_training(model, images, targets, half).step,
        build,
        lambda variant, run: training.assert_step_no_worse(run, oracle, eager, variant),
        inference=False,
        required=(),
    )
