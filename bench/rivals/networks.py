"""Builds the rivals by their own packages, with random weights: nothing is downloaded.

Each builder gets the classes and the size of the image, and returns a module from images (N, 3, H, W) to logits
(N, K, h, w). What only training uses, such as auxiliary heads, is left out.
"""

from __future__ import annotations

import io
import warnings
from contextlib import redirect_stderr, redirect_stdout
from functools import cache
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.rivals.torchvision_on_cpu import declare_operators

# depths, widths and width of the decoder: arXiv 2105.15203, appendix, and the model cards nvidia/segformer-*
SEGFORMERS = {
    "b0": ((2, 2, 2, 2), (32, 64, 160, 256), 256),
    "b1": ((2, 2, 2, 2), (64, 128, 320, 512), 256),
    "b2": ((3, 4, 6, 3), (64, 128, 320, 512), 768),
    "b3": ((3, 4, 18, 3), (64, 128, 320, 512), 768),
    "b4": ((3, 8, 27, 3), (64, 128, 320, 512), 768),
    "b5": ((3, 6, 40, 3), (64, 128, 320, 512), 768),
}
STAGES = ["stage1", "stage2", "stage3", "stage4"]


class _Logits(nn.Module):
    """Returns the logits of a model of `transformers`."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.model(images).logits
        return logits


def segformer(classes: int, height: int, width: int, size: str) -> nn.Module:
    """Build SegFormer-B0 ... B5 by `transformers`; ``size`` is "b0" ... "b5"."""
    declare_operators()
    from transformers import SegformerConfig, SegformerForSemanticSegmentation

    depths, widths, decoder = SEGFORMERS[size]
    config = SegformerConfig(
        depths=list(depths),
        hidden_sizes=list(widths),
        num_attention_heads=[1, 2, 5, 8],
        decoder_hidden_size=decoder,
        num_labels=classes,
    )
    return _Logits(SegformerForSemanticSegmentation(config))


def upernet(classes: int, height: int, width: int, backbone: str) -> nn.Module:
    """Build UPerNet on Swin-T ("swin") or ConvNeXt-T ("convnext") by `transformers`."""
    declare_operators()
    from transformers import ConvNextConfig, SwinConfig, UperNetConfig, UperNetForSemanticSegmentation

    if backbone == "swin":
        encoder = SwinConfig(
            embed_dim=96, depths=[2, 2, 6, 2], num_heads=[3, 6, 12, 24], window_size=7, out_features=STAGES
        )
    else:
        encoder = ConvNextConfig(depths=[3, 3, 9, 3], hidden_sizes=[96, 192, 384, 768], out_features=STAGES)
    config = UperNetConfig(backbone_config=encoder, use_auxiliary_head=False, num_labels=classes)
    return _Logits(UperNetForSemanticSegmentation(config))


class _Queries(nn.Module):
    """Returns the logits that EoMT's processor makes of queries: `post_process_semantic_segmentation`."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        found = self.model(images)
        masks = F.interpolate(found.masks_queries_logits, images.shape[2:], mode="bilinear").sigmoid()
        classes = found.class_queries_logits.softmax(-1)[..., :-1]  # the last one is "nothing"
        return torch.einsum("nqk,nqhw->nkhw", classes, masks)


def eomt(classes: int, height: int, width: int) -> nn.Module:
    """Build EoMT-L by `transformers` as published for ADE20K: DINOv2's ViT-L/16, 100 queries in its last 4 blocks.

    Raises:
        ValueError: the image is not a square. EoMT's positions are those of one square, and its processor cuts other
            images into windows.
    """
    declare_operators()
    from transformers import EomtConfig, EomtForUniversalSegmentation

    if height != width:
        raise ValueError(f"eomt: the image must be a square, got {height}x{width}; cut it into windows")
    model = EomtForUniversalSegmentation(EomtConfig(image_size=height, num_queries=100, num_labels=classes))
    # masked attention fades out while it is trained, so that the published weights have zeros here; this buffer
    # decides about the way through the network, hence it never is a meta tensor
    model.attn_mask_probs = torch.zeros(4, device="cpu")
    return _Queries(model)


def smp_deeplab(classes: int, height: int, width: int, encoder: str) -> nn.Module:
    """Build DeepLabV3+ as `segmentation_models_pytorch` has it, of output stride 16."""
    declare_operators()
    import segmentation_models_pytorch as smp

    return smp.DeepLabV3Plus(encoder, encoder_weights=None, classes=classes)


def smp_pspnet(classes: int, height: int, width: int, encoder: str) -> nn.Module:
    """Build PSPNet by `segmentation_models_pytorch`, on all stages of the encoder and at an eighth of the image."""
    declare_operators()
    import segmentation_models_pytorch as smp

    # its default leaves out two of five stages, the paper none
    model = smp.PSPNet(encoder, encoder_weights=None, encoder_depth=5, upsampling=8, classes=classes)
    model.encoder.make_dilated(output_stride=8)
    return model


class _OpenMMLab(nn.Module):
    """Returns the logits of a model of mmsegmentation."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.model._forward(images)
        return logits


def openmmlab(classes: int, height: int, width: int, config: str) -> nn.Module:
    """Build a network by mmsegmentation, from the configuration that it was published with.

    Args:
        classes: instead of those of the configuration.
        height: any.
        width: any.
        config: "folder/name" below its configs/.
    """
    from mmengine.config import Config

    made = Config.fromfile(_openmmlab() / f"{config}.py").model
    made.update(data_preprocessor=None, auxiliary_head=None)
    _with_random_weights(made)
    made.decode_head.num_classes = classes
    for loss in _as_list(made.decode_head.loss_decode):
        loss.pop("class_weight", None)  # one weight per class of Cityscapes
    from mmseg.registry import MODELS

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about losses
        return _OpenMMLab(MODELS.build(made))


@cache
def _openmmlab() -> Path:
    """Let mmsegmentation register its networks, in silence about optional packages; return its configurations."""
    declare_operators()
    heard = io.StringIO()
    with warnings.catch_warnings(), redirect_stdout(heard), redirect_stderr(heard):
        warnings.simplefilter("ignore")
        import mmseg
        from mmseg.utils import register_all_modules

        register_all_modules()
    return Path(mmseg.__file__).parent / ".mim/configs"


def _with_random_weights(config: Any) -> None:
    """Take every wish for downloaded weights and for several processes out of a configuration."""
    if isinstance(config, list | tuple):
        for part in config:
            _with_random_weights(part)
    elif isinstance(config, dict):
        config.pop("init_cfg", None)
        if isinstance(config.get("pretrained"), str):
            config["pretrained"] = None
        if config.get("type") == "SyncBN":
            config["type"] = "BN"
        for part in config.values():
            _with_random_weights(part)


def _as_list(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [value]
