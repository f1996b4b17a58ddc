"""MSCAN among timm's models: ``mscan_t``, ``mscan_s``, ``mscan_b`` and ``mscan_l``.

    import timm
    import segnext.integrations.timm            # registers the names
    encoder = timm.create_model("mscan_b", features_only=True, out_indices=(1, 2, 3))

The import is enough for whatever makes its encoders by timm, such as segmentation_models_pytorch ("tu-mscan_b").
Names of tensors are those of `segnext.mscan_b`, and every checkpoint dialect loads. There are no weights to download:
``pretrained=True`` needs ``pretrained_cfg_overlay=dict(file="mscan_b.pth")``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, cast

import torch
import torch.fx
import torch.nn.functional as F
from torch import Tensor, nn

from segnext.data.classification import CROP_SHARE
from segnext.data.preprocessing import MEAN, STD
from segnext.integrations.requirements import expect_package
from segnext.models import MSCAN, dialects
from segnext.models.changed import layers
from segnext.models.config import STAGES, MSCANConfig
from segnext.models.layers import check_images
from segnext.models.msca import FFN
from segnext.models.mscan import Head
from segnext.models.registry import CONFIGS

expect_package("timm", "1.0.9", "timm")
expect_package("torchvision", "0.20", "timm")  # without it `import timm` fails

from timm.layers import SelectAdaptivePool2d  # noqa: E402 (after the check that timm is there)
from timm.models import (  # noqa: E402
    FeatureInfo,
    build_model_with_cfg,
    generate_default_cfgs,
    register_model,
)

torch.fx.wrap("check_images")
ENTRY_POINTS = tuple(name for name, config in CONFIGS.items() if isinstance(config, MSCANConfig))
SIDE = 224  # of the images that ImageNet weights are trained on

default_cfgs = generate_default_cfgs(
    {
        name: dict(
            num_classes=1000,
            input_size=(3, SIDE, SIDE),
            pool_size=(SIDE // 32, SIDE // 32),
            crop_pct=CROP_SHARE,
            interpolation="bicubic",
            mean=tuple(round(value / 255, 6) for value in MEAN),
            std=tuple(round(value / 255, 6) for value in STD),
            first_conv="stem.conv1",
            classifier="head",
            license="apache-2.0",
            paper_ids="arXiv:2209.08575",
            paper_name="SegNeXt: Rethinking Convolutional Attention Design for Semantic Segmentation",
        )
        for name in ENTRY_POINTS
    }
)


class _Timm(MSCAN):
    """What timm's callers expect of classifiers and feature pyramids alike."""

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Keep only the input of each FFN for the backward, see :class:`segnext.models.msca.FFN`.

        Results stay the same, and BatchNorm counts each batch once; checkpoints of whole stages would count it twice.
        """
        for module in self.modules():
            if isinstance(module, FFN):
                module.recompute = enable
        self.config = dataclasses.replace(self.config, recompute=enable)

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Patterns that order the parameters by depth, for layer-wise learning rates: stages, or (fine) blocks."""
        if coarse:
            return dict(stem=r"^stem", blocks=r"^(?:stages|norms|downsamples)\.(\d+)")
        return dict(
            stem=r"^stem",
            # what follows the last block of a stage
            blocks=[
                (r"^stages\.(\d+)\.(\d+)", None),
                (r"^norms\.(\d+)", (99998,)),
                (r"^downsamples\.(\d+)", (99999,)),
            ],
        )

    def no_weight_decay(self) -> set[str]:
        """No names: parameters that decay must spare are vectors, which timm's optimisers spare by themselves."""
        return set()

    def _features(self, x: Tensor, last: int) -> Iterator[Tensor]:
        """Yield the normalised features of the stages up to ``last``."""
        check_images(self.config.architecture, x, self.stem.conv1.weight)
        for i in range(last + 1):
            x = self.stem(x) if i == 0 else self.downsamples[i - 1](x)
            x = self.norms[i](self.stages[i](x))
            yield x


class MSCANClassifier(_Timm):
    """An MSCAN with the methods and attributes of timm's classifiers.

    Args:
        architecture: a name in ``ENTRY_POINTS``.
        num_classes: 0 for no classifier.
        in_chans: channels of the images.
        global_pool: ``"avg"``, ``"max"``, ``"avgmax"``, ``"catavgmax"``, or ``""`` for the unpooled features.
        output_stride: 32; or 16 or 8, where the last stages keep the size of their input, and depthwise convolutions
            are dilated instead.
        drop_rate: dropout rate in front of the classifier.
        drop_path_rate: stochastic depth rate of the last block; 0, as elsewhere in timm, unlike `segnext.mscan_t`.
        device, dtype: of the parameters.
        **fields: other fields of :class:`segnext.models.config.MSCANConfig`.

    Raises:
        ValueError: a value out of range. TypeError: an unknown field.
    """

    def __init__(
        self,
        architecture: str,
        num_classes: int = 1000,
        in_chans: int = 3,
        global_pool: str = "avg",
        output_stride: int = 32,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        **fields: Any,
    ) -> None:
        config = CONFIGS[architecture]
        assert isinstance(config, MSCANConfig)  # of all entry points
        super().__init__(
            dataclasses.replace(
                config, num_classes=num_classes, in_channels=in_chans, drop_path=drop_path_rate, **fields
            )
        )
        self.in_chans = in_chans
        self.drop_rate = drop_rate
        self.num_features = self.config.channels[-1]
        _dilate(self, output_stride)
        self.reset_classifier(num_classes, global_pool)
        self.layers_built = layers(self)
        self.to(device=device, dtype=dtype)

    def forward_features(self, x: Tensor) -> Tensor:  # type: ignore[override]
        """The last stage's features (N, C, H/32, W/32), normalised, and not pooled."""
        *_, last = self._features(x, len(self.stages) - 1)
        return last

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Class logits (N, num_classes) of the features; with ``pre_logits`` what the classifier would get."""
        x = F.dropout(self.global_pool(x), self.drop_rate, self.training)
        return x if pre_logits or self.head is None else self.head(x)

    def forward(self, x: Tensor) -> Tensor:
        """Class logits (N, num_classes), or pooled features without a classifier."""
        return self.forward_head(self.forward_features(x))

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | Sequence[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """Return the last features and those of the named stages, as timm's models do.

        Args:
            x: (N, in_chans, H, W) normalised images.
            indices: stages; an integer n for the last n; None for all.
            norm: of no effect: a norm ends each stage.
            stop_early: compute no stage after the last of them.
            output_fmt: "NCHW".
            intermediates_only: leave out the last features.
        """
        if output_fmt != "NCHW":
            raise ValueError(f"{self.config.architecture}: output_fmt must be 'NCHW', got {output_fmt!r}")
        wanted = _named_stages(len(self.stages), indices)
        features = list(self._features(x, wanted[-1] if stop_early else len(self.stages) - 1))
        intermediates = [feature for i, feature in enumerate(features) if i in wanted]
        return intermediates if intermediates_only else (features[-1], intermediates)

    def prune_intermediate_layers(
        self, indices: int | Sequence[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Drop the stages after the last that is named, and the classifier; return the stages that are named."""
        wanted = _named_stages(len(self.stages), indices)
        self.downsamples, self.stages, self.norms = _first_stages(self, wanted[-1] + 1)
        if prune_head:
            self.reset_classifier(0, "")
        self.layers_built = layers(self)
        return wanted

    def get_classifier(self) -> nn.Module:
        """Return the linear layer, or an identity where there is none."""
        return nn.Identity() if self.head is None else self.head

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Put a new classifier (none for 0) in place of the old one; ``global_pool`` None keeps the pooling."""
        if global_pool is not None:
            self.global_pool = SelectAdaptivePool2d(pool_type=global_pool, flatten=bool(global_pool))
        if num_classes and self.global_pool.is_identity():
            raise ValueError(
                f"{self.config.architecture}: num_classes must be 0 with global_pool='', got {num_classes}; a linear "
                "layer takes pooled features"
            )
        self.config = dataclasses.replace(self.config, num_classes=num_classes)
        self.num_classes = num_classes
        self.head_hidden_size = self.num_features * self.global_pool.feat_mult()
        weight = self.stem.conv1.weight
        self.head = (
            Head(self.head_hidden_size, num_classes).to(weight.device, weight.dtype) if num_classes else None
        )


class MSCANFeatures(_Timm):
    """An MSCAN as a list of features, with timm's ``feature_info``: ``features_only=True``.

    Args:
        model: the classifier whose stages it takes over; those after the last of ``out_indices`` are dropped.
        out_indices: stages; an integer n for the last n; negative ones count from the end.
        output_fmt: "NCHW".
    """

    def __init__(
        self, model: MSCANClassifier, out_indices: int | Sequence[int] = STAGES, output_fmt: str = "NCHW"
    ) -> None:
        indices = _named_stages(STAGES, out_indices)
        with torch.device("meta"):  # the tensors are those of `model`
            super().__init__(
                dataclasses.replace(model.config, features_only=True, out_indices=tuple(indices))
            )
        self.stem = model.stem
        self.downsamples, self.stages, self.norms = _first_stages(model, indices[-1] + 1)
        self.layers_built = layers(self)
        self.feature_info = FeatureInfo(model.feature_info, tuple(indices))
        self.output_fmt = output_fmt

    def is_left_out(self, key: str) -> bool:
        """Whether a tensor's name is of what a SegNeXt or a classifier has beside these features."""
        return key.startswith("decoder.") or super().is_left_out(key)


def _named_stages(count: int, indices: int | Sequence[int] | None) -> list[int]:
    """Return the stages from 0 to ``count`` - 1 that timm's callers mean by ``indices``, in rising order."""
    given = range(count) if indices is None else range(-indices, 0) if isinstance(indices, int) else indices
    if not given or not all(-count <= index < count for index in given):
        raise ValueError(
            f"mscan: out_indices must be stages from {-count} to {count - 1}, or a number of last stages, got {indices}"
        )
    return sorted({index % count for index in given})


def _first_stages(model: MSCAN, count: int) -> tuple[nn.ModuleList, nn.ModuleList, nn.ModuleList]:
    """Return the downsamples, stages and norms of the first ``count`` stages."""
    return model.downsamples[: count - 1], model.stages[:count], model.norms[:count]


def _dilate(model: MSCAN, output_stride: int) -> None:
    """Let stages beyond ``output_stride`` keep their input's size, and see as far as before by dilation."""
    strides = [info["reduction"] for info in model.feature_info]
    if output_stride not in strides[1:]:
        expected = ", ".join(map(str, strides[1:]))
        raise ValueError(
            f"{model.config.architecture}: output_stride must be one of {expected}, got {output_stride}"
        )
    factor = 1
    for i in range(1, STAGES):
        if strides[i] <= output_stride:
            continue
        first = cast(nn.Conv2d, model.downsamples[i - 1].conv)
        first.stride, first.dilation, first.padding = (1, 1), (factor, factor), (factor, factor)
        factor *= 2
        for conv in model.stages[i].modules():
            if isinstance(conv, nn.Conv2d) and conv.groups > 1:
                conv.dilation = (conv.dilation[0] * factor, conv.dilation[1] * factor)
                conv.padding = (int(conv.padding[0]) * factor, int(conv.padding[1]) * factor)
        model.feature_info[i]["reduction"] = output_stride


def _translated(state_dict: Mapping[str, Any], model: nn.Module) -> dict[str, Tensor]:
    """Translate a checkpoint of any dialect to our names, which timm needs to adapt the input's channels."""
    own = model.state_dict()
    # in the model's dtype: timm rounds what it adapts to that of the file
    return {
        key: tensor.to(own[key].dtype) if key in own else tensor
        for key, tensor in dialects.to_native(state_dict, own).items()
    }


def _entry_point(name: str) -> Callable[..., nn.Module]:
    def make(pretrained: bool = False, **options: Any) -> nn.Module:
        return build_model_with_cfg(
            partial(MSCANClassifier, name),
            name,
            pretrained,
            pretrained_filter_fn=_translated,
            feature_cfg=dict(out_indices=tuple(range(STAGES)), feature_cls=MSCANFeatures),
            **options,
        )

    make.__name__ = make.__qualname__ = name
    make.__doc__ = f"MSCAN-{name[-1].upper()}; options as for :class:`MSCANClassifier`, and timm's own."
    return make


for _name in ENTRY_POINTS:
    globals()[_name] = register_model(_entry_point(_name))
