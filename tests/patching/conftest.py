"""Foreign models of few channels, and what tests do with them."""

import pytest
import torch

from oracle import foreign_models


@pytest.fixture
def segnext():
    """SegNeXt of the official code, tiny, with layer scales that show what the blocks do."""
    torch.manual_seed(0)
    return visible(foreign_models.segnext("tiny", classes=5))


@pytest.fixture
def images():
    return torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(1))


def visible(model):
    """Let every block add as much as its input is."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "layer_scale" in name:
                parameter.fill_(0.5)
    return model.eval()
