"""Writes weights as other code bases keep them: their names, and their configuration with what no tensor shows."""

from __future__ import annotations

import io
import json
import os
import pickle
import pprint
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import save_file
from torch import Tensor

from segnext.atomic import replace_bytes, replace_file
from segnext.models import MSCAN, SegNeXt, dialects
from segnext.models.config import GROUPS, ROOT, STRIPS, SegNeXtConfig
from segnext.models.decoders import stages_of
from segnext.models.loading import expect_model
from segnext.models.registry import ModelConfig
from segnext.weights.config_text import TRAINED_STEPS
from segnext.weights.containers import META_KEY
from segnext.weights.saving import expect_savable, finite_on_cpu

PUBLISHED = ("ham",)
KEPT = ("preprocessing", "recipe", "metrics")


class Peer(NamedTuple):
    """A code base that takes our weights.

    Attributes:
        title: its name for people.
        suffixes: of the files that it reads.
        rename: from our names to its own.
        lengths: it computes three strips and a root of any length, not only the published ones.
        threshold: it has heads with one logit.
        channels: it takes images with other than three channels.
        decoders: those that it has; with others than the published one, on any stages.
    """

    title: str
    suffixes: tuple[str, ...]
    rename: Callable[[Mapping[str, Tensor]], dict[str, Tensor]]
    lengths: bool = False
    threshold: bool = False
    channels: bool = False
    decoders: tuple[str, ...] = PUBLISHED


PEERS = {
    "official": Peer(
        "the official code", (".safetensors", ".pth"), dialects.to_official, decoders=("ham", "cnn", "mlp")
    ),
    "mmsegmentation": Peer(
        "mmsegmentation",
        (".safetensors", ".pth"),
        dialects.to_mmsegmentation,
        lengths=True,
        threshold=True,
        decoders=("ham", "cnn", "mlp"),
    ),
    "paddleseg": Peer("PaddleSeg", (".pdparams",), dialects.to_paddleseg, channels=True),
}


def save_for(model: SegNeXt | MSCAN, path: str | os.PathLike[str], peer: str) -> list[str]:
    """Write a model as another code base keeps it; an existing file is replaced atomically.

    The NMF bases are left out, because the other code bases draw them anew and have no place for them. A torch
    checkpoint is ``{"meta", "state_dict"}``; ``meta`` holds class names, palette and the configuration as text, from
    which the peer and segnext read rank, steps, ``align_corners``, mean and std. A safetensors file has ``meta`` as
    JSON in its header. PaddleSeg's files hold nothing but arrays.

    Args:
        model: a SegNeXt or MSCAN.
        path: the file; its suffix is one of the peer's.
        peer: a key of ``PEERS``.

    Returns:
        What the file does not hold, one sentence each.

    Raises:
        TypeError: not a SegNeXt or an MSCAN.
        ValueError: an unknown peer, another suffix, a model that the peer's code cannot compute, or that `save`
            refuses.
    """
    expect_model("save_for", model)
    if peer not in PEERS:
        raise ValueError(f"save_for: peer must be one of {', '.join(PEERS)}, got {peer!r}")
    to, path = PEERS[peer], Path(path)
    if path.suffix.lower() not in to.suffixes:
        raise ValueError(
            f"save_for: path must end in {' or '.join(to.suffixes)} for {to.title}, got {path}; rename it"
        )
    _expect_computable(model.config, to)
    metadata = expect_savable(model, model.metadata)
    tensors = to.rename(finite_on_cpu(model))
    if peer == "paddleseg":
        arrays = {key: tensor.float().numpy() for key, tensor in tensors.items()}
        replace_bytes(path, pickle.dumps(arrays, protocol=2))
        return _left_to_yaml(model.config, metadata)
    meta = _meta(model.config, metadata, peer)
    if path.suffix.lower() == ".safetensors":
        header = {"format": "pt", META_KEY: json.dumps(meta)}
        replace_file(path, lambda temporary: save_file(tensors, temporary, header))
    else:
        content = io.BytesIO()
        torch.save({"meta": meta, "state_dict": tensors}, content)
        replace_bytes(path, content.getvalue())
    return [f"the fixed NMF bases are left out: {to.title} draws new ones in every forward pass"] * (
        isinstance(model, SegNeXt) and model.config.decoder != "mlp"
    )


def _expect_computable(config: ModelConfig, to: Peer) -> None:
    def expect(valid: bool, name: str, expected: str) -> None:
        if not valid:
            raise ValueError(
                f"save_for: {name} must be {expected} for {to.title}, whose code has no other, "
                f"got {getattr(config, name)}; keep the file in segnext's names"
            )

    expect(config.attention == "msca", "attention", "msca")
    expect(config.mix, "mix", "True")
    expect(config.gate, "gate", "True")
    if to.lengths:
        expect(len(config.strips) == len(STRIPS), "strips", f"{len(STRIPS)} lengths")
    else:
        expect(config.strips == STRIPS, "strips", str(STRIPS))
        expect(config.root == ROOT, "root", str(ROOT))
    expect(to.channels or config.in_channels == 3, "in_channels", "3")
    if isinstance(config, SegNeXtConfig):
        expect(config.decoder in to.decoders, "decoder", " or ".join(to.decoders))
        expect(config.context == "ham", "context", "ham")
        stages = config.in_indices is None or to.decoders != PUBLISHED or stages_of(config) == (1, 2, 3)
        expect(stages, "in_indices", "(1, 2, 3)")
        expect(to.threshold or config.threshold is None, "threshold", "None")
        same = config.align_corners == config.decoder_align_corners
        expect(same, "align_corners", f"{config.decoder_align_corners} as decoder_align_corners")


def _meta(config: ModelConfig, metadata: Mapping[str, Any], peer: str) -> dict[str, Any]:
    named = {key: metadata[key] for key in ("classes", "palette") if key in metadata}
    kept = {key: metadata[key] for key in KEPT if key in metadata}
    text = _text(config, metadata.get("preprocessing") or {}, peer)
    if peer == "mmsegmentation":
        return {"cfg": text, "dataset_meta": named, "segnext": kept}
    return {"config": text, **{key.upper(): value for key, value in named.items()}, "segnext": kept}


def _text(config: ModelConfig, preprocessing: Mapping[str, Any], peer: str) -> str:
    """Return the configuration as Python text, from which mmcv's and mmengine's Config build the model."""
    normalisation = {key: list(preprocessing[key]) for key in ("mean", "std") if key in preprocessing}
    network: dict[str, Any] = {
        "type": "EncoderDecoder",
        "pretrained": None,
        "backbone": _backbone(config, peer),
    }
    if isinstance(config, SegNeXtConfig):
        network["decode_head"] = _head(config, peer)
    values: dict[str, Any] = {}
    if normalisation and peer == "mmsegmentation":
        network["data_preprocessor"] = {
            "type": "SegDataPreProcessor",
            **normalisation,
            "bgr_to_rgb": True,
            "pad_val": 0,
            "seg_pad_val": 255,
        }
    elif normalisation:
        values["img_norm_cfg"] = {**normalisation, "to_rgb": True}
    values["model"] = {**network, "train_cfg": {}, "test_cfg": {"mode": "whole"}}
    return "".join(
        f"{name} = {pprint.pformat(value, sort_dicts=False, width=110)}\n" for name, value in values.items()
    )


def _backbone(config: ModelConfig, peer: str) -> dict[str, Any]:
    backbone: dict[str, Any] = {
        "type": "MSCAN",
        "embed_dims": list(config.channels),
        "mlp_ratios": list(config.expansions),
        "drop_rate": config.dropout,
        "drop_path_rate": config.drop_path,
        "depths": list(config.depths),
        "norm_cfg": {"type": "BN", "requires_grad": True},
    }
    if peer == "mmsegmentation":
        backbone["attention_kernel_sizes"] = [config.root, *([1, length] for length in config.strips)]
        backbone["attention_kernel_paddings"] = [
            config.root // 2,
            *([0, length // 2] for length in config.strips),
        ]
        backbone["act_cfg"] = {"type": "GELU"}
    return backbone


def _head(config: SegNeXtConfig, peer: str) -> dict[str, Any]:
    stages, is_mlp = stages_of(config), config.decoder == "mlp"
    ham = {
        "ham_channels": config.decoder_channels,
        "ham_kwargs": ham_arguments(config, capitals=peer != "mmsegmentation"),
    }
    groups = {"type": "GN", "num_groups": GROUPS, "requires_grad": True}
    head: dict[str, Any] = {
        "type": "SegformerHead" if is_mlp else "LightHamHead",
        "in_channels": [config.channels[stage] for stage in stages],
        "in_index": list(stages),
        "channels": config.decoder_channels,
        **({} if is_mlp else ham),
        "dropout_ratio": config.decoder_dropout,
        "num_classes": config.num_classes,
        "norm_cfg": {"type": "BN", "requires_grad": True} if is_mlp else groups,
        "align_corners": config.align_corners,
        "loss_decode": {
            "type": "CrossEntropyLoss",
            "use_sigmoid": config.threshold is not None,
            "loss_weight": 1.0,
        },
    }
    return head if config.threshold is None else {**head, "out_channels": 1, "threshold": config.threshold}


def ham_arguments(config: SegNeXtConfig, capitals: bool) -> dict[str, Any]:
    """Return the arguments of the factorisation; the official code and PaddleSeg write them in capitals."""
    steps = {"train_steps": TRAINED_STEPS, "eval_steps": config.eval_steps}
    named = {key.upper(): value for key, value in steps.items()} if capitals else steps
    return {"MD_S": 1, "MD_R": config.rank, **named}


def _left_to_yaml(config: ModelConfig, metadata: Mapping[str, Any]) -> list[str]:
    """Say what PaddleSeg takes from its YAML."""
    left = []
    if isinstance(config, SegNeXtConfig):
        decoder = {
            "channels": config.decoder_channels,
            "ham_channels": config.decoder_channels,
            "align_corners": config.align_corners,
            "ham_kwargs": ham_arguments(config, capitals=True),
        }
        left.append(f"PaddleSeg's YAML must say num_classes: {config.num_classes} and decoder_cfg: {decoder}")
    preprocessing = metadata.get("preprocessing") or {}
    if {"mean", "std"} <= preprocessing.keys():
        mean, std = ([round(value / 255, 6) for value in preprocessing[key]] for key in ("mean", "std"))
        left.append(f"PaddleSeg's YAML must say mean: {mean} and std: {std} in Normalize")
    others = [key for key in ("short_side", "value_range") if preprocessing.get(key) is not None]
    others += [key for key in ("classes", "palette", "recipe", "metrics") if key in metadata]
    if others:
        left.append(f"PaddleSeg's files have no place for {', '.join(others)}")
    return left
