"""SegNeXt: an MSCAN encoder and a decoder for semantic segmentation.

Paper: SegNeXt (arXiv 2209.08575); official code: Visual-Attention-Network/SegNeXt (Apache-2.0).
"""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import torch
import torch.fx
import torch.nn.functional as F
from torch import Tensor

from segnext.models.changed import layers
from segnext.models.config import STAGES, EncoderConfig, MSCANConfig, SegNeXtConfig
from segnext.models.decoders import decoder_of, stages_of
from segnext.models.finite import expect_finite
from segnext.models.labels import class_logits, two_logits
from segnext.models.loading import AnyDialectModule
from segnext.models.mscan import MSCAN
from segnext.models.sizes import plain_size
from segnext_kernels import upsample_argmax, upsample_cross_entropy


class SegNeXt(AnyDialectModule):
    """Semantic segmentation network; takes normalised images (N, C, H, W) of any size.

    ``model(x)`` gives logits (N, K, H, W): one per class, or one in all if the configuration has a ``threshold``.
    ``model(x, targets)`` gives the loss. :meth:`loss` and :meth:`predict` (label maps) go through ``forward`` and
    never make the full-size logits. In evaluation equal images give equal outputs. ``load_state_dict`` takes every
    known checkpoint dialect.

    Wrappers see ``forward`` alone: train with ``ddp(images, targets)`` and ``compiled(images, targets)``;
    ``model.compile()`` compiles the model in place, and :meth:`loss` and :meth:`predict` with it.

    Frozen parts stay as they are: ``model.backbone.requires_grad_(False)`` also keeps the statistics of the encoder's
    BatchNorms, in training mode too (:class:`segnext.models.batch_norm.BatchNorm`).

    Attributes:
        config: the configuration it was built from.
        metadata: facts that came with its weights: classes, palette, preprocessing, recipe, metrics.
        layers_built: its layers as they were built, for :func:`segnext.models.changed.first_changed_child`.
    """

    def __init__(self, config: SegNeXtConfig) -> None:
        super().__init__()
        self.config = config
        self.metadata: dict[str, Any] = {}
        encoder = {field.name: getattr(config, field.name) for field in fields(EncoderConfig)}
        self.backbone = MSCAN(MSCANConfig(**encoder, features_only=True))
        self.decoder = decoder_of(config).from_config(config)
        self.layers_built = layers(self)

    def forward_features(self, images: Tensor) -> list[Tensor]:
        """The four stages' features (N, C_i, ceil(H/s), ceil(W/s)), s = 4, 8, 16, 32."""
        features = self.backbone(images)  # a call, so that hooks and wrappers have their effect
        if isinstance(features, Tensor) or (isinstance(features, (list, tuple)) and len(features) != STAGES):
            got = "a tensor" if isinstance(features, Tensor) else f"{len(features)} of them"
            raise ValueError(
                f"{self.config.architecture}: backbone must return the features of {STAGES} stages, got {got}; "
                "make an encoder with features_only=True and all out_indices"
            )
        return features

    def forward_logits(self, images: Tensor) -> Tensor:
        """Logits (N, K, ceil(H/8), ceil(W/8)), before resizing to the image.

        Their size is that of the first stage that the decoder reads: H/4, H/8, H/16 or H/32.
        """
        features = self.forward_features(images)
        # What is wrapped around a decoder need not show its attributes.
        stages = getattr(self.decoder, "stages", stages_of(self.config))
        return self.decoder([features[stage] for stage in stages])

    def forward(
        self,
        images: Tensor,
        targets: Tensor | None = None,
        *,
        ignore_index: int = 255,
        class_weight: Tensor | None = None,
        label_smoothing: float = 0.0,
        reduction: str = "mean",
        resize: bool = True,
    ) -> Tensor:
        """Logits of normalised images; with ``targets`` the loss.

        Args:
            images: (N, C, H, W) normalised images.
            targets: (N, height, width) class ids: the result is :meth:`loss`, which has the arguments up to
                ``reduction``. Wrappers that see ``forward`` alone (DDP, FSDP, torch.compile) are trained so.
            resize: without targets, whether the logits get the images' size.

        Returns:
            Logits (N, K, H, W), or (N, K, ceil(H/8), ceil(W/8)) without ``resize``; the loss, a scalar, with
            ``targets``.
        """
        return _result(
            self.forward_logits(images),
            images,
            targets,
            (ignore_index, class_weight, label_smoothing, reduction, self.config.align_corners),
            self.config.threshold,
            resize,
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

        The same as ``model(images, targets, ...)``: hooks of the model and ``model.compile()`` have their effect.

        Args:
            images: (N, C, H, W) normalised images.
            targets: (N, H, W) class ids, int64 or uint8.
            ignore_index: id of pixels that do not count.
            class_weight: (num_classes,) or None.
            label_smoothing: in [0, 1].
            reduction: ``"mean"`` over the pixels that count (as PyTorch), or ``"mean_all"`` over all (as the
                official code).

        Raises:
            TypeError: the targets are no tensor, or of another dtype. ValueError: of another shape.
        """
        if targets is None:
            raise TypeError(
                f"{self.config.architecture}: targets must be a tensor of class ids, got None; "
                "model(images) gives logits without them"
            )
        loss: Tensor = self(
            images,
            targets,
            ignore_index=ignore_index,
            class_weight=class_weight,
            label_smoothing=label_smoothing,
            reduction=reduction,
        )
        return loss

    def predict(self, images: Tensor, size: tuple[int, int] | None = None) -> Tensor:
        """Return the most likely class of each pixel.

        Args:
            images: (N, C, H, W) normalised images.
            size: height and width of the result, integers of any kind; by default those of the images.

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
            logits = two_logits(self(images, resize=False), self.config.threshold)
            self.expect_finite(logits)
        with torch.no_grad():  # outside inference mode, so that the caller may change the result in place
            sides: Any = tuple(images.shape[2:]) if size is None else plain_size(size)
            return upsample_argmax(logits, sides, self.config.align_corners)

    def expect_finite(self, logits: Tensor) -> None:
        """Raise a ``segnext.models.finite.NonFiniteError``, which names a tensor, unless all logits are finite."""
        expect_finite(logits, self.config.architecture, self.state_dict)


@torch.fx.wrap  # for a symbolic trace this is one call, since it cannot know which arguments will be given
def _result(
    logits: Tensor,
    images: Tensor,
    targets: Tensor | None,
    options: tuple[int, Tensor | None, float, str, bool],
    threshold: float | None,
    resize: bool,
) -> Tensor:
    """Make of small logits what ``forward`` returns; the options are those of the loss, in the op's order."""
    align_corners = options[-1]
    if targets is not None:
        return upsample_cross_entropy(class_logits(logits, threshold), targets, *options)
    if not resize:
        return logits
    return F.interpolate(logits, size=images.shape[2:], mode="bilinear", align_corners=align_corners)
