"""Another decoder is its own class, its own fold and one line in the table; all the rest of `deployment` serves it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

from segnext import DeployedSegNeXt, create_model, deploy
from segnext.deployment.folding import DECODERS
from segnext.deployment.packed import PackedNetwork
from segnext.deployment.parts import FoldedConv, FoldedDecoder, Layers
from segnext.deployment.plan import count, view
from segnext.models import SegNeXt, SegNeXtConfig
from segnext_kernels import native, use_backend


class Head(nn.Module):
    """Two 1x1 convolutions on the second stage's feature, which reaches the decoder as the first."""

    def __init__(self, channels: int, num_classes: int) -> None:
        super().__init__()
        self.hidden, self.classifier = nn.Conv2d(channels, 24, 1), nn.Conv2d(24, num_classes, 1)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        return self.classifier(self.hidden(features[0]).relu())


@dataclass(frozen=True)
class FoldedHead(FoldedDecoder):
    hidden: FoldedConv
    classifier: FoldedConv

    MARK: ClassVar[str] = "head.hidden.weight"

    @classmethod
    def fold(cls, decoder: nn.Module, config: SegNeXtConfig) -> FoldedHead:
        assert isinstance(decoder, Head)
        convolutions = (FoldedConv(conv.weight, conv.bias) for conv in (decoder.hidden, decoder.classifier))
        return cls(*convolutions)

    @classmethod
    def named(cls, leaf: Callable[[str], Any]) -> FoldedHead:
        names = ("head.hidden", "head.classifier")
        return cls(*(FoldedConv(leaf(f"{name}.weight"), leaf(f"{name}.bias")) for name in names))

    def layers(self, layers: Layers) -> Callable[[Sequence[Tensor], Any], Tensor]:
        hidden, classifier = layers.pointwise(self.hidden, "relu"), layers.logits(self.classifier)
        return lambda features, memory: classifier(hidden(features[1], memory))

    def elements(self, shapes: Sequence[Sequence[int]]) -> int:
        return count(self._shape(shapes))

    def memory(self, shapes: Sequence[Sequence[int]], regions: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        return view(regions[2], self._shape(shapes))

    def _shape(self, shapes: Sequence[Sequence[int]]) -> tuple[int, ...]:
        return (shapes[1][0], len(self.hidden.weight), *shapes[1][2:])


@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_another_decoder(backend: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(DECODERS, Head, FoldedHead)
    torch.manual_seed(0)
    model = create_model("segnext_t", num_classes=3).eval()
    assert isinstance(model, SegNeXt)
    model.decoder = Head(64, 3)  # type: ignore[assignment]
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
