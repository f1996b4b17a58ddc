"""Mixes the images of a batch with those of the same batch in reverse order: mixup (arXiv 1710.09412) or cutmix
(arXiv 1905.04899), one of the two per batch, and their labels alike.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor


class Mix(NamedTuple):
    """How one batch is mixed.

    Attributes:
        share: of each image that stays, 0..1.
        box: top, bottom, left and right of the pixels that come from the other image; None: all are blended.
    """

    share: float
    box: tuple[int, int, int, int] | None = None

    def images(self, images: Tensor) -> Tensor:
        """Mix (N, C, H, W) floating images; they may be changed in place."""
        if self.share == 1:
            return images
        others = images.flip(0)
        if self.box is None:
            return images.mul_(self.share).add_(others, alpha=1 - self.share)
        top, bottom, left, right = self.box
        images[:, :, top:bottom, left:right] = others[:, :, top:bottom, left:right]
        return images

    def targets(self, labels: Tensor, num_classes: int, smoothing: float) -> Tensor:
        """Return the probabilities (N, num_classes) float32 that the network is to give.

        Args:
            labels: (N,) class ids.
            num_classes: number of classes.
            smoothing: share that is spread over all classes.
        """
        targets = torch.full((len(labels), num_classes), smoothing / num_classes)
        rows = torch.arange(len(labels))
        for ids, share in ((labels, self.share), (labels.flip(0), 1 - self.share)):
            targets.index_put_((rows, ids), torch.tensor(share * (1 - smoothing)), accumulate=True)
        return targets


@dataclass(frozen=True)
class Mixing:
    """Draws how batches are mixed.

    Args:
        mixup: both parameters of the beta distribution of mixup's share; 0: no mixup.
        cutmix: the same for cutmix, whose share is that of the area.
        switch: probability of cutmix, where both are on.
    """

    mixup: float = 0.8
    cutmix: float = 1.0
    switch: float = 0.5

    def draw(self, side: int, rng: np.random.Generator) -> Mix:
        """Draw how a batch of square images is mixed; `rng` is the only source of randomness."""
        if not self.mixup and not self.cutmix:
            return Mix(1.0)
        is_cut = not self.mixup or bool(self.cutmix and rng.random() < self.switch)
        alpha = self.cutmix if is_cut else self.mixup
        share = float(rng.beta(alpha, alpha))
        if not is_cut:
            return Mix(share)
        half = int(side * math.sqrt(1 - share)) // 2
        (top, bottom), (left, right) = (
            (max(centre - half, 0), min(centre + half, side))
            for centre in rng.integers(side, size=2).tolist()
        )
        # A rectangle that the border cuts replaces less than was drawn.
        return Mix(1 - (bottom - top) * (right - left) / side**2, (top, bottom, left, right))
