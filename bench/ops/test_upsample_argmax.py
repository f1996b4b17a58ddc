"""Times the tail of image to mask, T at 512x512: the share of the whole that resizing and argmax take."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from bench.comparison import Comparison
from bench.models.networks import CLASSES, image, pair
from bench.peers import PEERS, Run
from bench.results import OURS
from oracle import transcription
from oracle.accuracy import assert_labels
from oracle.inputs import in_layout
from segnext import segnext_t
from segnext.data.images import read_image
from segnext.data.preprocessing import normalise
from segnext.models import SegNeXt, dialects
from segnext.weights.catalogue import shipped
from segnext_kernels import choose, upsample_argmax

SIDE = 512
PHOTOGRAPH = Path(__file__).resolve().parents[2] / "docs" / "street.jpg"
LARGEST_SHARE = 0.05


def test_tail_on_noise(compare: Comparison) -> None:
    """Logits of 150 classes come from a 16x16 grid of noise, which has more boundaries than a photograph."""
    model, state_dict = pair("t")
    noise = torch.randn(1, CLASSES, 16, 16, generator=torch.Generator().manual_seed(3))
    low = F.interpolate(noise, (SIDE // 8, SIDE // 8), mode="bilinear", align_corners=False)
    compare_tails(compare, f"{CLASSES} classes, noise from 16x16", model, state_dict, image(SIDE), low)


def test_tail_on_a_photograph(compare: Comparison) -> None:
    """The shipped weights see a photograph of a street, resized to 512x512."""
    if "camvid" not in shipped():
        pytest.skip("the package ships no weights named camvid")
    photograph = normalise(read_image(PHOTOGRAPH))
    images = F.interpolate(photograph, (SIDE, SIDE), mode="bilinear", antialias=True)
    images = in_layout(images, torch.channels_last)
    model = segnext_t(weights="camvid").eval()
    with torch.inference_mode():
        low = model.forward_logits(images)
    state_dict = dialects.to_official(model.state_dict())
    compare_tails(compare, f"camvid weights, docs/{PHOTOGRAPH.name}", model, state_dict, images, low.clone())


def compare_tails(
    compare: Comparison, name: str, model: SegNeXt, state_dict: dict[str, Tensor], images: Tensor, low: Tensor
) -> None:
    """Time everything up to the logits and, in the same rounds, the tail on ``low``; ours must take under 5 %."""
    size, bases = (SIDE, SIDE), model.decoder.hamburger.bases
    low = in_layout(low, torch.channels_last)

    def build_forward(layout: torch.memory_format) -> tuple[Callable[..., Tensor], tuple[Tensor]]:
        function = partial(transcription.logits, in_layout(state_dict, layout), bases)
        return function, (in_layout(images, layout),)

    forwards: dict[str, Run] = {OURS: partial(model.forward_logits, images)}
    forwards |= {peer: make(build_forward) for peer, make in PEERS.items()}
    row = compare(
        "tail of image to mask, T 512x512, fp32",
        name,
        lambda: upsample_argmax(low, size),
        lambda layout: (transcription.resized_argmax, (in_layout(low, layout), size)),
        lambda variant, labels: assert_labels(labels, low, size),
        beside={f"{variant}, to the logits": run for variant, run in forwards.items()},
        bytes_moved=low.numel() * low.element_size() + SIDE * SIDE,
        backend=choose("upsample_argmax", low, list(size)),
    )
    if row is None:
        return
    shares = {}
    for variant, tail in row.times.items():
        shares[variant] = tail.median / (tail.median + row.beside[f"{variant}, to the logits"].median)
    row.notes["share_of_whole"] = shares
    assert shares[OURS] < LARGEST_SHARE, (
        f"the tail takes {shares[OURS]:.1%} of the whole, not under {LARGEST_SHARE:.0%}"
    )
