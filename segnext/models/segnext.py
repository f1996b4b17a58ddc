"""SegNeXt: an MSCAN encoder and a decoder for semantic segmentation.

Paper: SegNeXt (arXiv 2209.08575); official code: Visual-Attention-Network/SegNeXt (Apache-2.0).
"""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from segnext.models.config import EncoderConfig, MSCANConfig, SegNeXtConfig
from segnext.models.decoders import decoder_of
from segnext.models.finite import expect_finite
from segnext.models.labels import class_logits, two_logits
from segnext.models.loading import AnyDialectModule
from segnext.models.mscan import MSCAN
from segnext_kernels import upsample_argmax, upsample_cross_entropy


class SegNeXt(AnyDialectModule):
    """Semantic segmentation network; takes normalised images (N, C, H, W) of any size.

    ``model(x)`` gives logits (N, K, H, W): one per class, or one in all if the configuration has a ``threshold``. For
    training use :meth:`loss`, for label maps :meth:`predict`: neither makes the full-size logits. In evaluation equal
    images give equal outputs.
    ``load_state_dict`` takes every known checkpoint dialect.

    Attributes:
        config: the configuration it was built from.
        metadata: facts that came with its weights: classes, palette, preprocessing, recipe, metrics.
    """

    def __init__(self, config: SegNeXtConfig) -> None:
        super().__init__()
        self.config = config
        self.metadata: dict[str, Any] = {}
        encoder = {field.name: getattr(config, field.name) for field in fields(EncoderConfig)}
        self.backbone = MSCAN(MSCANConfig(**encoder, features_only=True))
        self.decoder = decoder_of(config).from_config(config)

    def forward_features(self, images: Tensor) -> list[Tensor]:
        """The four stages' features (N, C_i, ceil(H/s), ceil(W/s)), s = 4, 8, 16, 32."""
        return self.backbone.forward_features(images)

    def forward_logits(self, images: Tensor) -> Tensor:
        """Logits (N, K, ceil(H/8), ceil(W/8)), before resizing to the image."""
        features = self.forward_features(images)
        return self.decoder([features[stage] for stage in self.decoder.stages])

    def forward(self, images: Tensor) -> Tensor:
        """Logits (N, K, H, W) of normalised images (N, C, H, W)."""
        return F.interpolate(
            self.forward_logits(images),
            size=images.shape[2:],
            mode="bilinear",
            align_corners=self.config.align_corners,
        )

    def loss(
        self,
        images: Tensor,
        targets: Tensor,
        ignore_index: int = 255,
        class_weight: Tensor | None = None,
        label_smoothing: float = 0.0,
        reduction: str = "mean",
    ) -> Tensor:
        """Compute the cross-entropy, a scalar, between the logits at the targets' size and the targets.

        Args:
            images: (N, C, H, W) normalised images.
            targets: (N, H, W) class ids, int64 or uint8.
            ignore_index: id of pixels that do not count.
            class_weight: (num_classes,) or None.
            label_smoothing: in [0, 1].
            reduction: ``"mean"`` over the pixels that count (as PyTorch), or ``"mean_all"`` over all (as the
                official code).
        """
        return upsample_cross_entropy(
            class_logits(self.forward_logits(images), self.config.threshold),
            targets,
            ignore_index=ignore_index,
            class_weight=class_weight,
            label_smoothing=label_smoothing,
            reduction=reduction,
            align_corners=self.config.align_corners,
        )

    def predict(self, images: Tensor, size: tuple[int, int] | None = None) -> Tensor:
        """Return the most likely class of each pixel.

        Args:
            images: (N, C, H, W) normalised images.
            size: height and width of the result; by default those of the images.

        Returns:
            (N, height, width) class ids, uint8 up to 256 classes, else int32.

        Raises:
            RuntimeError: the model is in training mode.
            NonFiniteError: there are NaN or Inf among the logits (a ValueError, ``segnext.models.finite``).
        """
        if self.training:
            raise RuntimeError(
                f"{self.config.architecture}: predict needs the model in evaluation mode, got training mode; "
                "call model.eval() first"
            )
        with torch.inference_mode():
            logits = two_logits(self.forward_logits(images), self.config.threshold)
            self.expect_finite(logits)
        with torch.no_grad():  # outside inference mode, so that the caller may change the result in place
            return upsample_argmax(
                logits, size or (images.shape[2], images.shape[3]), self.config.align_corners
            )

    def expect_finite(self, logits: Tensor) -> None:
        """Raise a ``segnext.models.finite.NonFiniteError``, which names a tensor, unless all logits are finite."""
        expect_finite(logits, self.config.architecture, self.state_dict)
