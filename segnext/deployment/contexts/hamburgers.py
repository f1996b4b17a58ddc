"""Hamburgers deployed.

The factorisation's `proj_out` is applied to its bases instead of to every pixel. This happens at run time, because each
image has its own bases. Means and concepts are few too, but their sums over pixels cost as much as that product.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segnext.deployment.contexts.context import (
    FoldedContext,
    Forward,
    Leaf,
    affine,
    empty,
    named_conv,
    named_norm,
    rows,
)
from segnext.deployment.parts import FoldedConv, FoldedNorm, Layers
from segnext.models import SegNeXtConfig
from segnext.models.config import GROUPS
from segnext.models.contexts.concepts import concept_decomposition
from segnext.models.contexts.em import EMAttention, em_attention
from segnext.models.contexts.quantisation import soft_k_means
from segnext.models.ham import Hamburger


@dataclass(frozen=True)
class FoldedHamburger(FoldedContext):
    """The weights of a Hamburger, and of modules that are built like one."""

    proj_in: FoldedConv
    bases: Tensor
    proj_out: Tensor
    norm: FoldedNorm

    @classmethod
    def fold(cls, context: nn.Module) -> FoldedHamburger:
        ham = cast(Hamburger | EMAttention, context)
        return cls(
            FoldedConv(ham.proj_in.weight, ham.proj_in.bias), ham.bases, ham.proj_out.weight, affine(ham.norm)
        )

    @classmethod
    def named(cls, leaf: Leaf) -> FoldedHamburger:
        return cls(
            named_conv(leaf, "ham.proj_in"),
            leaf("ham.bases"),
            leaf("ham.proj_out.weight"),
            named_norm(leaf, "ham.norm"),
        )

    def layers(self, layers: Layers, config: SegNeXtConfig) -> Forward:
        proj_in = layers.pointwise(self.proj_in, "relu")
        nmf = layers.nmf(self.bases, self.proj_out, config.eval_steps)
        norm = layers.group_norm(self.norm, GROUPS)

        def forward(x: Tensor, b: Tensor | None, c: Tensor | None) -> Tensor:
            z = nmf(proj_in(x, b), c)
            return norm(z, b, x)

        return forward


@dataclass(frozen=True)
class FoldedMixtures(FoldedHamburger):
    """Weights of a module that replaces pixels by mixtures of means, which plain PyTorch computes."""

    @abstractmethod
    def mixtures(self, x: Tensor, bases: Tensor, config: SegNeXtConfig) -> Tensor:
        """Pixels (N, D, L) and the first bases (1, D, R) to mixtures (N, D, L)."""

    def layers(self, layers: Layers, config: SegNeXtConfig) -> Forward:
        proj_in, proj_out = layers.pointwise(self.proj_in), layers.pointwise(FoldedConv(self.proj_out))
        norm, bases = layers.group_norm(self.norm, GROUPS), layers.placed(self.bases, torch.float32)

        def forward(x: Tensor, b: Tensor | None, c: Tensor | None) -> Tensor:
            b = empty(x, x.shape[1]) if b is None else b
            z = self.mixtures(proj_in(x, b).flatten(2), bases, config).unflatten(2, x.shape[2:])
            return norm(proj_out(rows(z), b), b, x)

        return forward


class FoldedQuantisation(FoldedMixtures):
    """Soft k-means."""

    def mixtures(self, x: Tensor, bases: Tensor, config: SegNeXtConfig) -> Tensor:
        return soft_k_means(x, bases, config.eval_steps, "one_step")


class FoldedConcepts(FoldedMixtures):
    """Concept decomposition."""

    def mixtures(self, x: Tensor, bases: Tensor, config: SegNeXtConfig) -> Tensor:
        return concept_decomposition(x, bases, config.eval_steps, "one_step")


class FoldedEM(FoldedMixtures):
    """EM attention."""

    def mixtures(self, x: Tensor, bases: Tensor, config: SegNeXtConfig) -> Tensor:
        return F.relu(em_attention(x, bases)[0])
