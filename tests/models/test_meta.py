"""Tests models that are built without memory (the meta device) and made real afterwards, in each of the usual ways."""

import pytest
import torch

from segnext import Predictor, create_model, deploy
from segnext.models import build, dialects
from segnext.weights.loading import load_weights
from segnext.weights.saving import save

TINY = {"channels": (16, 32, 32, 32), "depths": (1, 1, 1, 1), "decoder_channels": 32, "num_classes": 3}


def tiny(seed=0):
    torch.manual_seed(seed)
    return build("segnext_t", **TINY).eval()


def without_memory():
    with torch.device("meta"):
        return tiny()


def own_tensors(module):
    return [*module.parameters(recurse=False), *module.buffers(recurse=False)]


def spoil(model):
    """Write what uninitialised memory may hold."""
    for tensor in (*model.parameters(), *model.buffers()):
        tensor.data.fill_(7)


def checkpoint(model, kind):
    """A state dict of ours, or one of the official code, which has no bases."""
    return model.state_dict() if kind == "native" else dialects.to_official(model.state_dict())


@pytest.mark.parametrize("kind", ["native", "official"])
@pytest.mark.parametrize("assign", [False, True], ids=["to-empty", "assign"])
def test_a_checkpoint_fills_everything(kind, assign):
    source, model = tiny(seed=1), without_memory()
    if not assign:
        model.to_empty(device="cpu")
        spoil(model)
    model.load_state_dict(checkpoint(source, kind), assign=assign)
    for key, tensor in source.state_dict().items():
        assert torch.equal(model.state_dict()[key], tensor), key
    x = torch.randn(1, 3, 32, 32)
    assert torch.equal(model(x), source(x))


def test_what_needs_values_refuses_the_meta_device(tmp_path):
    """PyTorch would warn of each tensor, and leave the model without weights."""
    save(tiny(), tmp_path / "tiny.safetensors")
    with (
        torch.device("meta"),
        pytest.raises(ValueError, match="^load_weights: model must have memory .*; leave torch"),
    ):
        create_model(weights=tmp_path / "tiny.safetensors")
    for use in (deploy, Predictor, lambda model: save(model, tmp_path / "empty.safetensors")):
        with pytest.raises(
            ValueError, match=r"model must have weights, got backbone\.\S+ on the meta device; load some"
        ):
            use(without_memory())
    assert [file.name for file in tmp_path.iterdir()] == ["tiny.safetensors"]
    model = without_memory().to_empty(device="cpu")
    load_weights(model, tmp_path / "tiny.safetensors")
    assert torch.equal(model.decoder.hamburger.bases, tiny().decoder.hamburger.bases)


def test_assigned_tensors_have_the_checkpoints_dtype():
    model = without_memory()
    model.load_state_dict(checkpoint(tiny().double(), "official"), assign=True)
    assert model(torch.randn(1, 3, 32, 32, dtype=torch.float64)).dtype == torch.float64


@pytest.mark.parametrize("name", ["segnext_t", "mscan_t"])
def test_every_module_with_tensors_can_reset_them(name):
    with torch.device("meta"):
        model = build(name)
    lacking = [n for n, m in model.named_modules() if own_tensors(m) and not hasattr(m, "reset_parameters")]
    assert not lacking


@pytest.mark.parametrize("name", ["segnext_t", "mscan_t"])
def test_reset_parameters_of_each_module_draws_a_new_model(name):
    """As FSDP does with a model on the meta device: it never calls the model's own constructor again."""
    with torch.device("meta"):
        model = build(name, num_classes=20)
    model.to_empty(device="cpu")
    spoil(model)
    torch.manual_seed(1)
    for module in model.modules():
        if own_tensors(module):
            module.reset_parameters()
    new = build(name, num_classes=20)
    for key, tensor in new.state_dict().items():
        given = model.state_dict()[key]
        width = tensor.double().std(correction=0).item()
        if width == 0 or key.endswith("bases"):
            assert torch.equal(given, tensor), key
        elif tensor.numel() > 3000:  # drawn
            assert given.double().std().item() == pytest.approx(width, rel=0.1), key
    assert not any((tensor == 7).any() for tensor in model.state_dict().values())


def test_bases_are_the_same_whatever_the_default_dtype():
    expected = tiny().decoder.hamburger.bases
    torch.set_default_dtype(torch.float64)
    try:
        double = tiny().decoder.hamburger.bases
    finally:
        torch.set_default_dtype(torch.float32)
    assert double.dtype == torch.float64 and torch.equal(double.float(), expected)


def test_building_without_memory_moves_no_generator():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    with torch.device("meta"):
        model = build("segnext_t", **TINY)
    assert torch.equal(torch.rand(3), expected)
    assert all(tensor.is_meta for tensor in model.state_dict().values())


@pytest.fixture(params=["device", "dtype"])
def another_default(request):
    """Returns a function that sets a default which no calculation of an existing model may take."""

    def change():
        if request.param == "device":
            torch.set_default_device("meta")
        else:
            torch.set_default_dtype(torch.float64)

    yield change
    torch.set_default_device(None)
    torch.set_default_dtype(torch.float32)


def everything(model, x, targets):
    """Results of the calculations in evaluation and in training, and the gradients."""
    torch.manual_seed(3)
    results = [model.eval()(x), model.predict(x), model.predict(x, (20, 31)), model(x, targets)]
    model.train()
    model.zero_grad()
    results.append(model(x, targets, label_smoothing=0.1))
    results[-1].backward()
    return results + [parameter.grad for parameter in model.parameters()]


@pytest.mark.parametrize("options", [{}, {"num_classes": 2, "threshold": 0.5}], ids=["classes", "threshold"])
def test_results_are_the_same_whatever_the_defaults(another_default, options):
    torch.manual_seed(0)
    model = build("segnext_t", **(TINY | {"dropout": 0.1, "drop_path": 0.2} | options))
    x, targets = torch.randn(2, 3, 48, 64), torch.randint(2, (2, 48, 64))
    state = {key: tensor.clone() for key, tensor in dialects.to_official(model.state_dict()).items()}
    expected = everything(model, x, targets)
    another_default()
    model.load_state_dict(state)
    torch.testing.assert_close(everything(model, x, targets), expected, rtol=0, atol=0)


def test_a_new_model_has_the_default_device_and_dtype(another_default):
    another_default()
    model = build("segnext_t", **TINY)
    tensors = [tensor for tensor in model.state_dict().values() if tensor.is_floating_point()]
    assert {tensor.device.type for tensor in tensors} == {torch.get_default_device().type}
    assert {tensor.dtype for tensor in tensors} == {torch.get_default_dtype()}
