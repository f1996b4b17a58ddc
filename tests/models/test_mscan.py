"""Tests MSCAN as classifier and as feature pyramid."""

import copy
import pickle

import pytest
import torch

from segnext.models import build, dialects


def test_classifier_gives_one_row_of_logits_per_image():
    network = build("mscan_t", num_classes=10).eval()
    x = torch.randn(2, 3, 50, 70)
    with torch.inference_mode():
        logits = network(x)
        last = network.forward_features(x)[-1]
        torch.testing.assert_close(logits, network.head(last.mean((2, 3))))
    assert logits.shape == (2, 10)


def test_without_classes_there_is_no_head():
    network = build("mscan_t", num_classes=0).eval()
    assert not [key for key in network.state_dict() if key.startswith("head")]
    x = torch.randn(2, 3, 32, 32)
    with torch.inference_mode():
        torch.testing.assert_close(network(x), network.forward_features(x)[-1].mean((2, 3)))


@pytest.mark.parametrize("out_indices", [(0, 1, 2, 3), (1, 3), (0,)], ids=str)
def test_features_only_gives_what_feature_info_tells(out_indices):
    network = build("mscan_t", features_only=True, out_indices=out_indices).eval()
    with torch.inference_mode():
        features = network(torch.randn(1, 3, 64, 96))
    assert len(features) == len(network.feature_info) == len(out_indices)
    for feature, info, index in zip(features, network.feature_info, out_indices, strict=True):
        assert info["module"] == f"norms.{index}" and network.get_submodule(info["module"]) is not None
        assert feature.shape == (1, info["num_chs"], 64 // info["reduction"], 96 // info["reduction"])


def test_selected_features_equal_those_of_all_stages():
    full = build("mscan_t", features_only=True).eval()
    part = build("mscan_t", features_only=True, out_indices=(0, 2)).eval()
    part.load_state_dict(full.state_dict())
    x = torch.randn(1, 3, 40, 40)
    with torch.inference_mode():
        first, _, third, _ = full(x)
        assert torch.equal(part(x)[0], first) and torch.equal(part(x)[1], third)


@pytest.mark.parametrize("out_indices", [(0, 1), (2,)], ids=str)
def test_only_stages_that_are_needed_are_built(out_indices):
    network = build("mscan_t", features_only=True, out_indices=out_indices)
    sum(feature.mean() for feature in network(torch.randn(2, 3, 64, 64))).backward()
    dead = [name for name, parameter in network.named_parameters() if parameter.grad is None]
    assert not dead
    assert len(network.stages) == len(network.norms) == len(network.downsamples) + 1 == out_indices[-1] + 1


def test_rates_of_stochastic_depth_do_not_depend_on_the_stages_built():
    whole = build("mscan_t", features_only=True)
    part = build("mscan_t", features_only=True, out_indices=(1,))
    assert [b.drop_path for b in part.stages[1]] == [b.drop_path for b in whole.stages[1]]


@pytest.mark.parametrize("dialect", ["native", "official"])
def test_a_whole_classifier_fills_the_stages_that_are_built(dialect):
    whole = build("mscan_t", num_classes=7).eval()
    part = build("mscan_t", features_only=True, out_indices=(0, 1)).eval()
    state = whole.state_dict()
    result = part.load_state_dict(state if dialect == "native" else dialects.to_official(state))
    assert set(result.unexpected_keys) == state.keys() - part.state_dict().keys()
    assert not result.missing_keys
    x = torch.randn(1, 3, 40, 40)
    with torch.inference_mode():
        assert torch.equal(part(x)[1], features_of(whole, x)[1])
    with pytest.raises(RuntimeError, match="stages.4.0.norm1.weight"):
        part.load_state_dict(state | {"stages.4.0.norm1.weight": torch.ones(32)})


def features_of(classifier, x):
    """The first two stages' features, stage by stage."""
    first = classifier.norms[0](classifier.stages[0](classifier.stem(x)))
    return first, classifier.norms[1](classifier.stages[1](classifier.downsamples[0](first)))


def test_feature_info_is_that_of_timm():
    info = build("mscan_t", features_only=True, out_indices=(1, 3)).feature_info
    assert info.channels() == [64, 256] and info.reduction() == [8, 32]
    assert info.module_name() == ["norms.1", "norms.3"] and info.out_indices == (1, 3)
    assert [entry["num_chs"] for entry in info] == [64, 256] and info[1]["reduction"] == 32
    for copied in (copy.deepcopy(info), pickle.loads(pickle.dumps(info))):
        assert copied == info and copied.channels() == [64, 256]


def test_a_stages_normalised_output_is_the_next_stages_input():
    network = build("mscan_t", features_only=True).eval()
    for norm in network.norms:
        torch.nn.init.uniform_(norm.weight, 0.5, 1.5)
    with torch.inference_mode():
        features = network(torch.randn(1, 3, 64, 64))
        again = network.norms[1](network.stages[1](network.downsamples[0](features[0])))
    torch.testing.assert_close(again, features[1])


def test_stem_and_patch_embeddings_are_strided_convolutions_with_bias():
    network = build("mscan_t", in_channels=5)
    convolutions = [network.stem.conv1, network.stem.conv2, *(down.conv for down in network.downsamples)]
    assert [conv.out_channels for conv in convolutions] == [16, 32, 64, 160, 256]
    assert network.stem.conv1.in_channels == 5
    for conv in convolutions:
        assert conv.kernel_size == (3, 3) and conv.stride == (2, 2) and conv.padding == (1, 1)
        assert conv.bias is not None


def test_stem_and_patch_embedding_arithmetic():
    network = build("mscan_t").eval()
    stem, down = network.stem, network.downsamples[0]
    for norm in (stem.norm1, stem.norm2, down.norm):
        torch.nn.init.normal_(norm.running_mean)
        torch.nn.init.uniform_(norm.running_var, 0.5, 2)
    x = torch.randn(1, 3, 21, 30)
    with torch.inference_mode():
        expected = stem.norm2(stem.conv2(torch.nn.functional.gelu(stem.norm1(stem.conv1(x)))))
        torch.testing.assert_close(stem(x), expected)
        torch.testing.assert_close(down(expected), down.norm(down.conv(expected)))


@pytest.mark.parametrize("in_channels", [1, 3])
def test_stem_computes_in_channels_last(in_channels):
    network = build("mscan_t", in_channels=in_channels).eval()
    seen = []
    for module in (network.stem.conv1, network.stem.norm1, network.stages[0]):
        module.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    network(torch.randn(2, in_channels, 40, 64))
    assert [x.is_contiguous(memory_format=torch.channels_last) for x in seen] == [True] * 3


def test_parameter_names_are_those_checkpoints_are_translated_to():
    keys = build("mscan_t").state_dict().keys()
    block = {key.removeprefix("stages.3.1.") for key in keys if key.startswith("stages.3.1.")}
    strips = {f"attention.strips.{kind}.{i}" for kind in ("rows", "columns") for i in range(3)}
    convolutions = strips | {"attention.strips.root", "ffn.fc1", "ffn.dwconv", "ffn.fc2"}
    convolutions |= {"attention.proj_in", "attention.mix", "attention.proj_out"}
    norms = {
        f"norm{i}.{key}" for i in (1, 2) for key in ("running_mean", "running_var", "num_batches_tracked")
    }
    assert block == (
        {f"{name}.{kind}" for name in convolutions | {"norm1", "norm2"} for kind in ("weight", "bias")}
        | norms
        | {"layer_scale1", "layer_scale2"}
    )
    assert len(keys) == 38 * 13 + 14 + 21 + 8 + 2
