"""Tests folded weights: each fold against the modules that it replaces, and the names in files."""

from __future__ import annotations

from dataclasses import fields
from inspect import signature

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segnext import create_model
from segnext.deployment.folding import by_name, fold, from_names
from segnext.deployment.parts import (
    FoldedAttention,
    FoldedConv,
    FoldedFeedForward,
    FoldedNorm,
    arguments,
    leaves,
    mapped,
)
from segnext.models import SegNeXt
from segnext_kernels import conv_ffn, msca_block


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def model() -> SegNeXt:
    """Make a model with normalisations and layer scales as of a network that has seen data."""
    torch.manual_seed(0)
    model = create_model("segnext_t", num_classes=3)
    assert isinstance(model, SegNeXt)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_()
                module.running_var.uniform_(0.5, 2)
                module.weight.uniform_(0.5, 2)
                module.bias.normal_()
        for name, parameter in model.named_parameters():
            if "layer_scale" in name:
                parameter.normal_()
    return model.eval()


@pytest.mark.parametrize(
    ("kind", "op"), [(FoldedAttention, msca_block), (FoldedFeedForward, conv_ffn)], ids=["msca", "ffn"]
)
def test_fields_are_the_ops_arguments_in_its_order(kind: type, op: object) -> None:
    names = [field.name for field in fields(kind)]
    assert names == list(signature(op).parameters)[1 : 1 + len(names)]  # type: ignore[arg-type]


def test_a_block(model: SegNeXt) -> None:
    block, folded = model.backbone.stages[1][0], fold(model).stages[1].blocks[0]  # type: ignore[index]
    x = noise(1, 64, 13, 17)
    with torch.no_grad():
        expected = block(x)
        result = conv_ffn(
            msca_block(x, *arguments(folded.attention)), *arguments(folded.feed_forward), residual=True
        )
    torch.testing.assert_close(result, expected, rtol=1e-4, atol=1e-4 * expected.abs().max().item())


def test_convolutions_before_a_norm(model: SegNeXt) -> None:
    folded, stem, downsample = fold(model), model.backbone.stem, model.backbone.downsamples[1]
    image, x = noise(1, 3, 21, 15), noise(1, 64, 9, 11)

    def halved(x: Tensor, conv: FoldedConv) -> Tensor:
        return F.conv2d(x, conv.weight, conv.bias, stride=2, padding=1)

    with torch.no_grad():
        torch.testing.assert_close(
            halved(F.gelu(halved(image, folded.stem)), folded.stages[0].entry),
            stem(image),
            rtol=1e-4,
            atol=1e-4,
        )
        torch.testing.assert_close(halved(x, folded.stages[2].entry), downsample(x), rtol=1e-4, atol=1e-4)


def test_bilinear_and_1x1_commute() -> None:
    """The fold of `squeeze` needs this: the product of resized features is the resized product."""
    f, w = noise(1, 6, 5, 4), noise(8, 6, 1, 1, seed=2)
    after = F.conv2d(F.interpolate(f, (9, 7), mode="bilinear", align_corners=False), w)
    before = F.interpolate(F.conv2d(f, w), (9, 7), mode="bilinear", align_corners=False)
    torch.testing.assert_close(after, before, rtol=1e-5, atol=1e-5)


def test_the_weights_are_the_folds_own_memory(model: SegNeXt) -> None:
    own = {tensor.data_ptr() for tensor in leaves(fold(model))}
    assert not own & {tensor.data_ptr() for tensor in model.state_dict().values()}


class TestNames:
    def test_there_and_back(self, model: SegNeXt) -> None:
        folded = fold(model)
        named = by_name(model.config, folded)
        back = from_names(model.config, named)
        assert back.decoder.__class__ is folded.decoder.__class__
        pairs = zip(leaves(folded), leaves(back), strict=True)
        assert all(one is other for one, other in pairs)
        assert len(named) == len(list(leaves(folded)))

    def test_names_in_files_stay(self, model: SegNeXt) -> None:
        """Files of earlier versions are read by these names."""
        named = by_name(model.config, fold(model))
        block = [
            *(
                f"{conv}_{kind}"
                for conv in ("proj_in", "root", "mix", "proj_out")
                for kind in ("weight", "bias")
            ),
            *(f"strip_{kind}.{i}" for kind in ("weights", "biases") for i in range(6)),
            "skip_scale",
            "skip_shift",
        ]
        ffn = [f"{conv}_{kind}" for conv in ("fc1", "dw", "fc2") for kind in ("weight", "bias")]
        affine = [
            *("stem.0", "stem.1", "downsample.0", "downsample.1", "downsample.2"),
            *("norm.0", "norm.1", "norm.2", "norm.3"),
            *("squeeze.norm", "ham.proj_in", "ham.norm", "align.norm", "classifier"),
        ]
        assert set(named) == {
            *(f"{name}.{kind}" for name in affine for kind in ("weight", "bias")),
            *(
                f"attention.{i}.{j}.{name}"
                for i, n in enumerate((3, 3, 5, 2))
                for j in range(n)
                for name in block
            ),
            *(f"ffn.{i}.{j}.{name}" for i, n in enumerate((3, 3, 5, 2)) for j in range(n) for name in ffn),
            *(f"squeeze.{level}.weight" for level in range(3)),
            *("ham.bases", "ham.proj_out.weight", "align.weight"),
        }
        assert named["attention.0.0.strip_weights.0"].shape == (32, 1, 1, 7)  # a row first
        assert named["attention.0.0.strip_weights.5"].shape == (32, 1, 21, 1)
        assert named["squeeze.1.weight"].shape == (256, 160, 1, 1)

    @pytest.mark.parametrize("missing", ["ham.bases", "classifier.bias", "attention.2.1.strip_biases.3"])
    def test_missing(self, model: SegNeXt, missing: str) -> None:
        named = by_name(model.config, fold(model))
        del named[missing]
        with pytest.raises(KeyError, match=missing):
            from_names(model.config, named)


def test_mapped_keeps_the_structure() -> None:
    part = (FoldedConv(torch.ones(2)), FoldedNorm(torch.ones(3), torch.zeros(3)))
    doubled = mapped(part, lambda tensor: 2 * tensor)
    assert doubled[0].bias is None and isinstance(doubled[1], FoldedNorm)
    assert [tensor.sum().item() for tensor in leaves(doubled)] == [4, 6, 0]
