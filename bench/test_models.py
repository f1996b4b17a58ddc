"""Whole models against plain PyTorch: image to mask, image to logits, a training step."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch

from bench import plain_segnext
from bench.comparison import Comparison
from bench.peers import in_layout
from bench.roofline import counted_flops
from bench.workloads import (
    CLASSES,
    Training,
    assert_best_class,
    assert_close,
    assert_same_step,
    image,
    model_training,
    pair,
    plain_training,
)

SIDE = 512


@pytest.mark.parametrize("size", ["t", "b"])
def test_image_to_mask(size: str, compare: Comparison) -> None:
    model, state_dict = pair(size)
    images, bases = image(SIDE), model.decoder.hamburger.bases
    with torch.inference_mode():
        oracle = plain_segnext.logits(state_dict, bases, images)
    compare(
        "models, fp32",
        f"{size.upper()} {SIDE}x{SIDE}, {CLASSES} classes, to the mask",
        lambda: model.predict(images),
        lambda layout: (
            partial(plain_segnext.mask, in_layout(state_dict, layout), bases),
            (in_layout(images, layout),),
        ),
        lambda variant, output: assert_best_class(output, oracle, variant),
        flops=counted_flops(lambda: model.forward_logits(images)),
    )


@pytest.mark.parametrize("size", ["t", "b"])
def test_image_to_logits(size: str, compare: Comparison) -> None:
    model, state_dict = pair(size)
    images, bases = image(SIDE), model.decoder.hamburger.bases
    with torch.inference_mode():
        oracle = plain_segnext.logits(state_dict, bases, images)
    compare(
        "models, fp32",
        f"{size.upper()} {SIDE}x{SIDE}, {CLASSES} classes, logits at H/8",
        lambda: model.forward_logits(images),
        lambda layout: (
            partial(plain_segnext.logits, in_layout(state_dict, layout), bases),
            (in_layout(images, layout),),
        ),
        lambda variant, output: assert_close(output, oracle, variant),
        flops=counted_flops(lambda: model.forward_logits(images)),
    )


def test_training_step(compare: Comparison) -> None:
    """Forward, backward and AdamW; dropout and drop path are off, so that both sides compute the same."""
    model, state_dict = pair("t", drop_path=0.0, decoder_dropout=0.0)
    generator = torch.Generator().manual_seed(2)
    images = in_layout(torch.randn(4, 3, 256, 256, generator=generator), torch.channels_last)
    targets = torch.randint(CLASSES, (4, 256, 256), generator=generator)
    oracle = plain_training(state_dict, model, images, targets).step()
    runs: dict[str, Training] = {}

    def build(layout: torch.memory_format) -> tuple[Callable[[], Training], tuple[()]]:
        training = plain_training(in_layout(state_dict, layout), model, in_layout(images, layout), targets)
        return training.step, ()

    def gate(variant: str, training: Training) -> None:
        runs[variant] = training
        assert_same_step(training, oracle, variant)

    row = compare(
        "training step, fp32",
        f"T 4x256x256, {CLASSES} classes, AdamW",
        model_training(model, images, targets).step,
        build,
        gate,
        inference=False,
        flops=3 * counted_flops(lambda: model.forward_logits(images)),
    )
    if row is not None:
        row.notes["losses"] = {variant: training.losses for variant, training in runs.items()}
