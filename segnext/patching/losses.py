"""The loss of a decoder head: the logits are resized to the labels, and compared with them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from segnext.patching.layers import InTheWay, are_unobserved, expect_unobserved
from segnext.patching.plan import SAMPLE, Plan, are_images
from segnext_kernels import upsample_argmax, upsample_cross_entropy

REDUCTIONS = ("mean", "mean_all")  # of `upsample_cross_entropy`: which one a head has, its loss tells

FLAGS = ("reduction", "avg_non_ignore", "use_sigmoid", "use_mask")  # what changes a loss's arithmetic


def _flags(loss: nn.Module) -> tuple[Any, ...]:
    return tuple(getattr(loss, name, None) for name in FLAGS)


@dataclass(frozen=True)
class HeadLoss(Plan):
    """Cross-entropy and accuracy of resized logits, in a head that holds its loss as ``loss_decode``.

    Attributes:
        classes: how many logits a pixel has.
        kind: the class of the loss.
        flags: the loss's attributes of the names `FLAGS`.
        reduction: see `segnext_kernels.upsample_cross_entropy`.
    """

    what: ClassVar[str] = "loss of a decoder head"
    ops: ClassVar[tuple[str, ...]] = ("upsample_cross_entropy", "upsample_argmax")
    reads: ClassVar[tuple[str, ...]] = ("ignore_index", "align_corners", "sampler")
    classes: int
    kind: type[nn.Module]
    flags: tuple[Any, ...]
    reduction: str

    @classmethod
    def candidates(cls, module: nn.Module) -> Iterable[Plan]:
        loss, classes = getattr(module, "loss_decode", None), getattr(module, "out_channels", None)
        classes = getattr(module, "num_classes", None) if classes is None else classes
        if not (
            isinstance(loss, nn.Module) and isinstance(classes, int) and hasattr(type(module), cls.method)
        ):
            return []
        if isinstance(loss, nn.ModuleList):
            raise InTheWay(f"it has {len(loss)} losses")
        if classes < 2 or getattr(loss, "use_sigmoid", False) or getattr(loss, "use_mask", False):
            raise InTheWay("its loss is no cross-entropy over classes")
        if getattr(module, "sampler", None) is not None:
            raise InTheWay("its loss samples pixels")
        if getattr(module, "align_corners", False):
            raise InTheWay("it resizes with align_corners=True")
        expect_unobserved(module, "loss_decode")
        return [cls(classes, type(loss), _flags(loss), reduction) for reduction in REDUCTIONS]

    def takes(self, module: Any, *args: Any) -> bool:
        if len(args) != 2 or not are_images(args[0]):
            return False
        labels, loss = self.labels_of(args[1]), module.loss_decode
        return (
            labels.ndim == 4
            and labels.shape[1] == 1
            and not module.align_corners
            and getattr(module, "sampler", None) is None
            and type(loss) is self.kind
            and _flags(loss) == self.flags
            and are_unobserved(module, "loss_decode")
        )

    def labels_of(self, given: Any) -> Tensor:
        """The labels (N, 1, H, W) in what the method gets."""
        return given

    def example(self, generator: torch.Generator) -> tuple[Any, ...]:
        n, height, width = SAMPLE
        logits = torch.randn((n, self.classes, height, width), generator=generator, dtype=torch.float64)
        labels = torch.randint(self.classes, (n, 1, 3 * height, 2 * width), generator=generator)
        labels[0, 0, :5] = 255
        return logits, labels

    def run(self, module: Any, *args: Any) -> dict[str, Tensor]:
        logits, labels = args[0], self.labels_of(args[1]).squeeze(1)
        loss, ignored = module.loss_decode, module.ignore_index
        weight = getattr(loss, "class_weight", None)
        weight = None if weight is None else logits.new_tensor(weight)
        value = upsample_cross_entropy(logits, labels, ignored, weight, reduction="mean_all")
        eps = torch.finfo(torch.float32).eps
        counted = labels != ignored
        if self.reduction == "mean":  # 0 where all pixels are ignored, as mmsegmentation has it
            weights = counted if weight is None else weight[labels.where(counted, 0)] * counted
            value = value * (labels.numel() / (weights.sum() + eps))
        with torch.no_grad():
            right = (upsample_argmax(logits, (labels.shape[1], labels.shape[2])) == labels) & counted
            # as mmsegmentation has it: percent; 100 where all pixels are ignored
            share = (right.sum(dtype=torch.float32) + eps) * 100 / (counted.sum() + eps)
        name = getattr(loss, "loss_name", "loss_seg")
        return {name: getattr(loss, "loss_weight", 1.0) * value, "acc_seg": share.view(1)}


@dataclass(frozen=True)
class HeadLossOfSamples(HeadLoss):
    """The same in mmsegmentation 1.x, whose method gets a list of data samples."""

    method: ClassVar[str] = "loss_by_feat"

    def labels_of(self, given: Any) -> Tensor:
        return torch.stack([item.gt_sem_seg.data for item in given])

    def example(self, generator: torch.Generator) -> tuple[Any, ...]:
        logits, labels = super().example(generator)
        samples = [SimpleNamespace(gt_sem_seg=SimpleNamespace(data=label)) for label in labels]
        return logits, samples


@dataclass(frozen=True)
class HeadLossOfLabels(HeadLoss):
    """The same in mmsegmentation 0.x and the official code, whose method gets the labels."""

    method: ClassVar[str] = "losses"
