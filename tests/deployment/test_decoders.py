"""Another decoder is its own class, its own fold and one line in the table; the rest of `deployment` works with it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segnext import DeployedSegNeXt, create_model, deploy
from segnext.deployment.folding import DECODERS
from segnext.deployment.packed import PackedNetwork
from segnext.deployment.parts import FoldedConv, FoldedDecoder, Layers
from segnext.deployment.plan import count, view
from segnext.models import SegNeXt, SegNeXtConfig, decoders
from segnext.models.decoder import Decoder
from segnext_kernels import native, use_backend


class Head(Decoder):
    """1x1 convolutions on the features of stages 0 and 2; the sum goes to the classifier at H/4."""

    stages = (0, 2)
    official_names = ()
    sizes: ClassVar[dict[str, tuple[str, int]]] = {}

    def __init__(self, channels: Sequence[int], num_classes: int) -> None:
        super().__init__()
        self.fine, self.coarse = (nn.Conv2d(channels[stage], 24, 1) for stage in self.stages)
        self.classifier = nn.Conv2d(24, num_classes, 1)

    @classmethod
    def from_config(cls, config: SegNeXtConfig) -> Head:
        return cls(config.channels, config.num_classes)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        fine, coarse = self.fine(features[0]), self.coarse(features[1])
        return self.classifier(fine + F.interpolate(coarse, fine.shape[2:], mode="bilinear"))


@dataclass(frozen=True)
class FoldedHead(FoldedDecoder):
    fine: FoldedConv
    coarse: FoldedConv
    classifier: FoldedConv

    @classmethod
    def fold(cls, decoder: Decoder, config: SegNeXtConfig) -> FoldedHead:
        assert isinstance(decoder, Head)
        convolutions = (decoder.fine, decoder.coarse, decoder.classifier)
        return cls(*(FoldedConv(conv.weight, conv.bias) for conv in convolutions))

    @classmethod
    def named(cls, config: SegNeXtConfig, leaf: Callable[[str], Any]) -> FoldedHead:
        names = ("head.fine", "head.coarse", "head.classifier")
        return cls(*(FoldedConv(leaf(f"{name}.weight"), leaf(f"{name}.bias")) for name in names))

    def layers(self, layers: Layers, config: SegNeXtConfig) -> Callable[[Sequence[Tensor], Any], Tensor]:
        convolutions = [layers.pointwise(self.fine), layers.pointwise(self.coarse)]
        resize_sum, classifier = layers.resize_sum(), layers.logits(self.classifier)

        def run(features: Sequence[Tensor], memory: Any) -> Tensor:
            places = memory or (None, None)
            levels = [
                conv(feature, out) for conv, feature, out in zip(convolutions, features, places, strict=True)
            ]
            return classifier(resize_sum(levels, places[0]))

        return run

    def elements(self, shapes: Sequence[Sequence[int]]) -> int:
        return count(self._hidden(shapes[0]))

    def memory(self, shapes: Sequence[Sequence[int]], regions: tuple[Tensor, Tensor, Tensor]) -> Any:
        return [view(region, self._hidden(shape)) for region, shape in zip(regions, shapes, strict=False)]

    def _hidden(self, shape: Sequence[int]) -> tuple[int, ...]:
        return (shape[0], len(self.fine.weight), *shape[2:])


@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_another_decoder(backend: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    monkeypatch.setitem(decoders.DECODERS, "head", Head)
    model = create_model("segnext_t", num_classes=3, decoder="head").eval()
    assert isinstance(model, SegNeXt)
    with pytest.raises(ValueError, match="deploy: model must have one of the decoders LightHam.*, got Head"):
        deploy(model)
    monkeypatch.setitem(DECODERS, Head, FoldedHead)
    images = torch.randn(2, 3, 45, 70)
    with torch.no_grad():
        expected = model.forward_logits(images)
    with use_backend(backend):
        fast = deploy(model)
        assert isinstance(fast._network, PackedNetwork) == (backend == "auto" and native._C is not None)
        logits = fast.forward_logits(images)
        torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4 * expected.abs().max().item())
        fast.save(tmp_path / "head.safetensors")
        loaded = DeployedSegNeXt.load(tmp_path / "head.safetensors")
        assert torch.equal(loaded.forward_logits(images), logits)
