"""Rewrites official checkpoints as other code bases save them, without the package's tables."""

from __future__ import annotations

import numpy as np
from torch import Tensor


def as_mmsegmentation(official: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rewrite for mmsegmentation 0.31 and 1.x: one ``dwconv`` less."""
    return {key.replace("mlp.dwconv.dwconv", "mlp.dwconv"): value for key, value in official.items()}


def as_geti(official: dict[str, Tensor], bases: Tensor) -> dict[str, Tensor]:
    """Rewrite for OpenVINO Training Extensions: mmsegmentation's names, wrapped, with the NMF bases."""
    result = {f"model.model.{key}": value for key, value in as_mmsegmentation(official).items()}
    return result | {"model.model.decode_head.hamburger.ham.bases": bases}


def as_jseg(official: dict[str, Tensor]) -> dict[str, np.ndarray]:
    """Rewrite for Jittor: numpy arrays, and its BatchNorm counts no batches."""
    return {key: value.numpy() for key, value in official.items() if "num_batches_tracked" not in key}


def as_paddleseg(official: dict[str, Tensor], branches: int = 3) -> dict[str, np.ndarray]:
    """Rewrite for PaddleSeg: its own names for strips, statistics and ConvGNAct layers; layer scales are (C, 1, 1)."""
    result = {}
    for key, value in as_jseg(as_mmsegmentation(official)).items():
        if "layer_scale" in key:
            value = value[:, None, None]
        for branch in range(branches):
            for half in (1, 2):
                old, new = f"conv{branch}_{half}", f"dwconvs.{branch}.conv{branch + 1}_{half}"
                key = key.replace(f"spatial_gating_unit.{old}.", f"spatial_gating_unit.{new}.")
        key = key.replace("spatial_gating_unit.conv3.", "spatial_gating_unit.conv_out.")
        key = key.replace("running_mean", "_mean").replace("running_var", "_variance")
        for layer in ("squeeze", "align", "ham_out"):
            key = key.replace(f"{layer}.conv.", f"{layer}._conv.").replace(
                f"{layer}.gn.", f"{layer}._group_norm."
            )
        result[key.replace("ham_in.conv.", "ham_in.")] = value
    return result
