"""Counted costs are those that were published, and those that a real run keeps."""

import pytest
import torch

from segnext.measure.costs import count_costs
from segnext.models import build

# docs/model.md, section 1: parameters counted on the official code, multiply-adds by torch's FLOP counter.
PARAMETERS = {"t": 4_263_414, "s": 13_932_886, "b": 27_636_310, "l": 48_926_550}
GIGA_512 = {"t": 6.404, "s": 15.646, "b": 34.663, "l": 69.686}
GIGA_1024_2048 = {"t": 50.129, "s": 124.064, "b": 274.883, "l": 552.649}


def meta(name: str, **overrides: object):
    with torch.device("meta"):
        return build(name, **overrides)


@pytest.mark.parametrize("size", PARAMETERS)
def test_the_official_counts(size):
    cost = count_costs(meta(f"segnext_{size}"), 512, 512)
    assert cost.parameters == PARAMETERS[size]
    assert cost.multiply_adds / 1e9 == pytest.approx(GIGA_512[size], rel=0.005)
    large = count_costs(meta(f"segnext_{size}", num_classes=19), 1024, 2048)
    assert large.multiply_adds / 1e9 == pytest.approx(GIGA_1024_2048[size], rel=0.005)


@pytest.mark.parametrize("name", ["segnext_t", "mscan_s"])
def test_the_parts_are_the_whole(name):
    model = meta(name)
    cost = count_costs(model, 96, 160, batch=3)
    assert cost.parameters == sum(p.numel() for p in model.parameters())
    assert [part.name for part in cost.parts][:5] == ["stem", *(f"stage {i}" for i in (1, 2, 3, 4))]
    assert all(part.output[0] == 3 and part.multiply_adds > 0 for part in cost.parts)
    assert cost.parts[2].output == (3, model.config.channels[1], 12, 20)
    assert cost.input == (3, 3, 96, 160)


def test_costs_grow_with_the_batch():
    one, four = (count_costs(meta("segnext_t"), 64, 64, batch) for batch in (1, 4))
    assert four.multiply_adds == 4 * one.multiply_adds
    assert four.peak_bytes == pytest.approx(4 * one.peak_bytes, rel=0.06)
    assert four.saved_bytes == pytest.approx(4 * one.saved_bytes, rel=0.05)


def test_saved_bytes_are_what_a_real_training_step_keeps():
    model = build("segnext_t", num_classes=7)
    estimate = count_costs(model, 64, 96, batch=2).saved_bytes
    parameters = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept: dict[int, torch.Tensor] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.untyped_storage().data_ptr() not in parameters:
            kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        logits = model.train()(torch.randn(2, 3, 64, 96))
    real = sum(tensor.untyped_storage().nbytes() for tensor in kept.values())
    assert logits.requires_grad
    assert estimate == pytest.approx(real, rel=0.03)


def test_the_peak_holds_the_largest_tensors_but_not_all():
    cost = count_costs(meta("segnext_t", num_classes=3), 256, 256)
    hidden = 4 * 8 * 32 * 64 * 64  # the FFN's hidden tensor of stage 1, float32
    assert hidden < cost.peak_bytes < 4 * hidden
    assert cost.peak_bytes < cost.saved_bytes / 3


def test_the_model_is_left_as_it_is():
    model = build("segnext_t", num_classes=3).eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    count_costs(model, 1, 32)
    assert not model.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert not any(module._forward_hooks for module in model.modules())


@pytest.mark.parametrize("sizes", [(0, 10, 1), (10, 0, 1), (10, 10, 0)])
def test_refused(sizes):
    with pytest.raises(ValueError, match="at least 1"):
        count_costs(meta("segnext_t"), *sizes)
