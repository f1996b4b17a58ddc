"""Tests load_state_dict: which names may be missing, and which differences raise."""

import pytest
import torch

from segnext.models import build

OPTIONAL = ("hamburger.bases", "num_batches_tracked")


def tiny(**overrides):
    shape = {"channels": (16, 32, 32, 32), "depths": (1, 1, 1, 1), "decoder_channels": 32, "num_classes": 3}
    return build("segnext_t", **(shape | {"rank": 4} | overrides)).eval()


@pytest.mark.parametrize("assign", [False, True], ids=["copy", "assign"])
def test_a_saved_state_restores_the_model(assign):
    source, target = tiny(), tiny()
    source.decoder.hamburger.bases.mul_(0.5)
    result = target.load_state_dict(source.state_dict(), assign=assign)
    assert not result.missing_keys and not result.unexpected_keys
    x = torch.randn(1, 3, 40, 40)
    with torch.inference_mode():
        assert torch.equal(target(x), source(x))


def test_native_names_are_taken_as_they_are(monkeypatch):
    source, target = tiny(), tiny()
    foreign = {f"module.{key}": value for key, value in source.state_dict().items()}
    monkeypatch.delattr("segnext.models.dialects.translate")
    target.load_state_dict(source.state_dict(), native=True)
    own = target.state_dict()
    assert all(torch.equal(own[key], value) for key, value in source.state_dict().items())
    with pytest.raises(RuntimeError, match="module"):
        target.load_state_dict(foreign, native=True)


def test_missing_bases_and_batch_counts_are_those_of_a_new_model_and_reported():
    source, target = tiny(), tiny()
    bases = target.decoder.hamburger.bases.clone()
    target.decoder.hamburger.bases.fill_(7)
    target.backbone.stem.norm1.num_batches_tracked.fill_(7)
    state = {key: value for key, value in source.state_dict().items() if not key.endswith(OPTIONAL)}
    result = target.load_state_dict(state)
    assert sorted(result.missing_keys) == sorted(key for key in source.state_dict() if key.endswith(OPTIONAL))
    assert torch.equal(target.decoder.hamburger.bases, bases)
    assert target.backbone.stem.norm1.num_batches_tracked == 0
    assert torch.equal(target.decoder.classifier.weight, source.decoder.classifier.weight)


@pytest.mark.parametrize("change", ["missing", "unexpected", "shape"])
def test_any_other_difference_is_an_error(change):
    state = dict(tiny().state_dict())
    if change == "missing":
        del state["backbone.stages.0.0.norm1.running_mean"]
    elif change == "unexpected":
        state["backbone.extra"] = torch.zeros(1)
    else:
        state["decoder.classifier.weight"] = torch.zeros(4, 32, 1, 1)
    with pytest.raises(RuntimeError):
        tiny().load_state_dict(state)


def test_not_strict_returns_the_differences():
    state = dict(tiny().state_dict())
    del state["decoder.classifier.bias"]
    state["other"] = torch.zeros(1)
    result = tiny().load_state_dict(state, strict=False)
    assert result.missing_keys == ["decoder.classifier.bias"] and result.unexpected_keys == ["other"]


def test_bases_of_another_rank_name_the_cure():
    message = r"hamburger.bases must be 4 .*, got 8; create it with create_model\(rank=8\)"
    with pytest.raises(ValueError, match=message):
        tiny().load_state_dict(tiny(rank=8).state_dict())


def test_bases_stay_where_only_the_encoder_is_loaded():
    target = tiny()
    target.decoder.hamburger.bases.fill_(7)
    encoder = {key: value for key, value in tiny().state_dict().items() if key.startswith("backbone.")}
    target.load_state_dict(encoder, strict=False)
    assert (target.decoder.hamburger.bases == 7).all()


def test_the_callers_state_dict_is_left_alone():
    state = {key: value for key, value in tiny().state_dict().items() if not key.endswith(OPTIONAL)}
    keys = list(state)
    tiny().load_state_dict(state)
    assert list(state) == keys


def test_mscan_loads_its_own_names():
    source, target = build("mscan_t", num_classes=4).eval(), build("mscan_t", num_classes=4).eval()
    target.load_state_dict(source.state_dict())
    x = torch.randn(1, 3, 32, 32)
    with torch.inference_mode():
        assert torch.equal(target(x), source(x))


@pytest.mark.parametrize(
    ("state_dict", "message"),
    [
        ("model.pth", "got a str; segnext.load_weights reads files"),
        (None, "got a NoneType"),
        ([("a", 1)], "got a list"),
        ({1: torch.ones(1)}, "got a dict with other keys"),
        (
            {"meta": 1, "state_dict": {"a": torch.ones(1)}},
            "got meta, state_dict; pass what is in 'state_dict'",
        ),
    ],
    ids=lambda value: str(value)[:20],
)
def test_other_things_than_a_state_dict_are_named(state_dict, message):
    with pytest.raises((TypeError, ValueError), match=message) as error:
        tiny().load_state_dict(state_dict)
    assert "\n" not in str(error.value)
