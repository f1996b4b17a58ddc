"""The registry's architectures have the official sizes, and wrong requests raise clear errors."""

import dataclasses
import json
from typing import cast

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from segnext.models import MSCAN, SegNeXt, build, list_models
from segnext.models.registry import ENCODER_VARIANTS, SIZES, find_architecture, split_variant

# docs/model.md, section 1; counted on the official code.
PARAMETERS = {"t": 4_263_414, "s": 13_932_886, "b": 27_636_310, "l": 48_926_550}
MULTIPLY_ADDS_512 = {"t": 6.404e9, "s": 15.646e9, "b": 34.663e9, "l": 69.686e9}
MULTIPLY_ADDS_1024_2048 = {"t": 50.129e9, "s": 124.064e9, "b": 274.883e9, "l": 552.649e9}
MSCAN_MILLIONS = {"t": 4.2, "s": 14.0, "b": 26.8, "l": 45.2}


def count_parameters(model: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def multiply_adds(size: str, num_classes: int, height: int, width: int) -> float:
    """Count the multiply-adds from image to logits at H/8, on shapes alone."""
    with torch.device("meta"):
        model = build(f"segnext_{size}", num_classes=num_classes).eval()
        image = torch.empty(1, 3, height, width)
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        logits = model.forward_logits(image)
    assert logits.shape == (1, num_classes, height // 8, width // 8)
    return counter.get_total_flops() / 2


@pytest.mark.parametrize("size", "tsbl")
def test_parameter_counts_are_the_official_ones(size):
    with torch.device("meta"):
        assert count_parameters(build(f"segnext_{size}", num_classes=150)) == PARAMETERS[size]


@pytest.mark.parametrize("size", SIZES)
def test_the_table_tells_the_parameters(size):
    with torch.device("meta"):
        assert (
            round(count_parameters(build(f"segnext_{size}", num_classes=150)) / 1e6, 1)
            == SIZES[size].millions
        )


@pytest.mark.parametrize("size", "tsbl")
def test_mscan_parameter_counts_are_the_papers(size):
    with torch.device("meta"):
        millions = count_parameters(build(f"mscan_{size}")) / 1e6
    assert millions == pytest.approx(MSCAN_MILLIONS[size], abs=0.051)


@pytest.mark.parametrize("size", "tsbl")
def test_multiply_adds_at_512_are_the_official_ones(size):
    assert multiply_adds(size, 150, 512, 512) == pytest.approx(MULTIPLY_ADDS_512[size], rel=0.005)


@pytest.mark.parametrize("size", "tsbl")
def test_multiply_adds_at_1024x2048_are_the_official_ones(size):
    assert multiply_adds(size, 19, 1024, 2048) == pytest.approx(MULTIPLY_ADDS_1024_2048[size], rel=0.005)


def test_list_models_filters_by_shell_pattern():
    assert set(PARAMETERS) <= SIZES.keys()
    assert list_models("segnext_*") == [f"segnext_{size}" for size in SIZES]
    assert list_models("*_t") == ["segnext_t", "mscan_t"]
    assert len(list_models()) == 2 * len(SIZES)
    assert list_models("resnet*") == []
    assert list_models("mscan_t*", variants=True) == ["mscan_t", *(f"mscan_t_{e}" for e in ENCODER_VARIANTS)]
    assert list_models("segnext_?_nl", variants=True) == [f"segnext_{size}_nl" for size in SIZES]


@pytest.mark.parametrize("name", ["segnext_t_lka", "t_lka", "mscan_s_nogate"])
def test_a_variant_is_its_architecture_with_other_fields(name):
    architecture, changed = split_variant(cast(str, find_architecture(name)))
    with torch.device("meta"):
        assert build(name).config == build(architecture, **changed).config
        assert build(name).config.architecture == architecture
        assert build("segnext_t_strip7", strips=(9, 11)).config.strips == (9, 11)  # what is given comes first


@pytest.mark.parametrize(
    ("name", "overrides"),
    [
        ("segnext_t", {"num_classes": 7, "in_channels": 4, "rank": 8, "decoder_channels": 64}),
        ("segnext_t", {"nmf_grad": "one_step", "recompute": True, "random_eval_bases": True}),
        ("mscan_t", {"features_only": True, "out_indices": [1, 3]}),
        ("mscan_t", {"channels": [8, 16, 24, 32], "depths": [1, 1, 1, 1], "num_classes": 5}),
        ("segnext_t", {"strips": [7, 11], "root": 3, "decoder": "ham"}),
        ("mscan_t", {"strips": [], "num_classes": 5}),
    ],
)
def test_config_survives_json_and_rebuilds_the_same_model(name, overrides):
    with torch.device("meta"):
        model = build(name, **overrides)
        stored = json.loads(json.dumps(dataclasses.asdict(model.config)))
        again = build(stored.pop("architecture"), **stored)
    assert again.config == model.config
    shapes = {key: value.shape for key, value in model.state_dict().items()}
    assert {key: value.shape for key, value in again.state_dict().items()} == shapes
    for key, value in overrides.items():
        assert stored[key] == value


@pytest.mark.parametrize("size", SIZES)
def test_a_size_alone_means_its_segnext(size):
    assert find_architecture(size) == find_architecture(f"segnext_{size}") == f"segnext_{size}"
    assert find_architecture(f"mscan_{size}") == f"mscan_{size}"
    with torch.device("meta"):
        assert build(size).config == build(f"segnext_{size}").config


def test_other_names_mean_no_architecture():
    assert find_architecture("x") is find_architecture("camvid") is find_architecture("T") is None


def test_strips_and_root_reach_every_block():
    with torch.device("meta"):
        model = build("segnext_t", strips=(3, 9), root=7)
    for stage in model.backbone.stages:
        for block in stage:
            strips = block.attention.strips
            assert strips.root.kernel_size == (7, 7)
            assert [conv.kernel_size for conv in strips.rows] == [(1, 3), (1, 9)]
            assert [conv.kernel_size for conv in strips.columns] == [(3, 1), (9, 1)]


def test_build_gives_the_class_of_the_name():
    with torch.device("meta"):
        assert isinstance(build("segnext_s"), SegNeXt)
        assert isinstance(build("mscan_s"), MSCAN)


def test_decoder_width_and_rank_are_free():
    with torch.device("meta"):
        model = build("segnext_l", decoder_channels=96, rank=5)
    assert model.decoder.hamburger.bases.shape == (1, 96, 5)
    assert model.decoder.classifier.weight.shape == (150, 96, 1, 1)


@pytest.mark.parametrize(
    ("name", "overrides", "error", "message"),
    [
        ("segnet_b", {}, ValueError, r"got 'segnet_b'; did you mean segnext_b"),
        (5, {}, TypeError, r"name must be that of an architecture, got int"),
        (["t"], {}, TypeError, r"got list"),
        ("a\nb" * 1000, {}, ValueError, r"^[^\n]{1,400}$"),
        ("resnet50", {}, ValueError, r"known are segnext_t, .*mscan_l"),
        ("segnext_t", {"classes": 3}, TypeError, r"got 'classes'; did you mean num_classes"),
        ("segnext_t", {"features_only": True}, TypeError, r"overrides of segnext_t .* got 'features_only'"),
        ("segnext_t", {"num_classes": 0}, ValueError, r"segnext_t: num_classes must be at least 2 .*, got 0"),
        ("segnext_t", {"num_classes": "11"}, TypeError, r"segnext_t: num_classes must be int, got '11'"),
        ("segnext_t", {"eval_steps": True}, TypeError, r"eval_steps must be int, got True"),
        ("segnext_t", {"drop_path": False}, TypeError, r"drop_path must be float, got False"),
        ("segnext_t", {"depths": (1, 1, True, 1)}, ValueError, r"depths must be four positive integers"),
        ("segnext_t", {"in_channels": 0}, ValueError, r"in_channels must be at least 1, got 0"),
        (
            "segnext_t",
            {"in_channels": 2**31},
            ValueError,
            r"in_channels must be at most 65,536, got 2147483648",
        ),
        (
            "segnext_t",
            {"depths": (1, 1, 257, 1)},
            ValueError,
            r"depths must be at most 256, got \(1, 1, 257, 1\)",
        ),
        ("segnext_t", {"strips": (7,) * 17}, ValueError, r"strips must be at most 16 lengths, got"),
        ("mscan_t", {"root": 1025}, ValueError, r"root must be at most 1,023, got 1025"),
        ("segnext_t", {"decoder_channels": 100}, ValueError, r"multiple of 32, got 100"),
        ("segnext_t", {"rank": 0}, ValueError, r"rank must be at least 1, got 0"),
        ("segnext_t", {"nmf_grad": "none"}, ValueError, r"'unrolled' or 'one_step', got none"),
        ("segnext_t", {"drop_path": 1.0}, ValueError, r"drop_path must be in \[0, 1\), got 1.0"),
        ("segnext_t", {"depths": (1, 2)}, ValueError, r"depths must be four positive integers, got \(1, 2\)"),
        ("segnext_t", {"depths": 3}, ValueError, r"depths must be four positive integers, got 3"),
        (
            "segnext_t",
            {"strips": (7, 10)},
            ValueError,
            r"strips must be odd positive integers, got \(7, 10\)",
        ),
        ("segnext_t", {"strips": (-1,)}, ValueError, r"strips must be odd positive integers, got \(-1,\)"),
        ("mscan_t", {"strips": 7}, ValueError, r"strips must be odd positive integers, got 7"),
        ("mscan_t", {"root": 4}, ValueError, r"root must be odd and positive, got 4"),
        ("segnext_t", {"attention": "van"}, ValueError, r"attention must be one of msca, lka, got van"),
        ("segnext_t", {"mix": 1}, TypeError, r"mix must be bool, got 1"),
        (
            "mscan_t_lka",
            {"strips": (7,)},
            ValueError,
            r"mscan_t: strips must be left out with attention='lka', which has none, got \(7,\)",
        ),
        ("segnext_t_nl2", {}, ValueError, r"architecture, got 'segnext_t_nl2'; did you mean .*segnext_t_nl"),
        ("segnext_t", {"root": (5, 5)}, TypeError, r"root must be int, got \(5, 5\)"),
        (
            "segnext_t",
            {"decoder": "fpn"},
            ValueError,
            r"segnext_t: decoder must be one of ham.*, got fpn",
        ),
        ("mscan_t", {"decoder": "ham"}, TypeError, r"overrides of mscan_t .* got 'decoder'"),
        (
            "mscan_t",
            {"features_only": True, "out_indices": (3, 1)},
            ValueError,
            r"rising order, got \(3, 1\)",
        ),
        ("mscan_t", {"features_only": True, "out_indices": (4,)}, ValueError, r"stages from 0 to 3"),
        ("mscan_t", {"features_only": True, "out_indices": ()}, ValueError, r"stages from 0 to 3"),
        ("mscan_t", {"out_indices": (0, 1)}, ValueError, r"given with features_only=True"),
    ],
)
def test_wrong_builds_are_refused_in_one_line(name, overrides, error, message):
    with pytest.raises(error, match=message) as raised:
        build(name, **overrides)
    assert "\n" not in str(raised.value)
