"""Tests that a model which cannot be trained or saved is refused before the first step, in one line."""

import copy

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from segnext import create_model
from segnext.data.config import load_data_config
from segnext.training.loop import CHECKPOINT, FINAL
from segnext.training.trainable import expect_trainable
from segnext.weights.saving import save
from tests.data.synthetic import write_data_set
from tests.training.runs import narrow, run


def _nan(model):
    model.backbone.stages[0][0].ffn.fc1.bias.data[2] = torch.nan


def _unknown_metadata(model):
    model.metadata["author"] = "me"


def _extra(model):
    model.auxiliary = nn.Linear(2, 2)


def _eps(model):
    model.decoder.align.norm.eps = 0.5


REFUSED = {
    "compiled": (lambda model: torch.compile(model, backend="eager"), TypeError, "got OptimizedModule;"),
    "encoder": (lambda model: model.backbone, TypeError, "a SegNeXt, got MSCAN;"),
    "name": (lambda model: "segnext_t", TypeError, "a SegNeXt, got str; create_model"),
    "half": (lambda model: model.half(), TypeError, "float32, got float16 in backbone.stem.conv1.weight;"),
    "meta": (
        lambda model: model.to("meta"),
        ValueError,
        "must have weights, got backbone.stem.conv1.weight on the meta",
    ),
    "frozen": (lambda model: model.requires_grad_(False), ValueError, "must need a gradient"),
    "nan": (_nan, ValueError, "finite, got NaN or Inf in backbone.stages.0.0.ffn.fc1.bias;"),
    "metadata": (_unknown_metadata, ValueError, "metadata must be among .*, got 'author'"),
    "extra": (_extra, ValueError, "encoder and decoder, got auxiliary.weight,"),
    "eps": (_eps, ValueError, r"got decoder.align.norm \(eps is 0.5 instead of 1e-05\);"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_trained_is_refused(case):
    change, error, message = REFUSED[case]
    model = narrow()
    with pytest.raises(error, match=f"^(train|save): [^\n]*{message}[^\n]*$"):
        changed = change(model)
        expect_trainable(model if changed is None else changed)


def test_nothing_is_written_for_a_model_that_cannot_be_saved(tmp_path):
    data, model = load_data_config(write_data_set(tmp_path / "houses")), narrow()
    _unknown_metadata(model)
    with pytest.raises(ValueError, match="save: metadata must be among"):
        run(data, tmp_path / "run", model=model)
    assert not (tmp_path / "run").exists()


def test_a_model_with_tied_weights(tmp_path):
    """Its files hold every tensor, and load into a model without ties."""
    data, model = load_data_config(write_data_set(tmp_path / "houses")), narrow()
    model.backbone.stages[3][1] = model.backbone.stages[3][0]
    run(data, tmp_path / "run", model=model)
    tensors, saved = load_file(tmp_path / "run" / FINAL), load_file(tmp_path / "run" / CHECKPOINT)
    for name, tensor in model.backbone.stages[3][0].state_dict().items():
        first, second = (f"backbone.stages.3.{i}.{name}" for i in range(2))
        assert torch.equal(tensors[first], tensors[second])
        assert torch.equal(saved[f"model.{second}"], tensor)
    assert create_model(weights=tmp_path / "run" / FINAL).config == model.config
    run(data, tmp_path / "run", model=copy.deepcopy(model), resume=True)


CHANGES = {
    "stride": ("backbone.stem.conv2", "stride", (1, 1)),
    "padding": ("backbone.stages.0.0.ffn.dwconv", "padding_mode", "circular"),
    "eps": ("backbone.stem.norm1", "eps", 1e-2),
    "steps": ("decoder.hamburger", "eval_steps", 3),
}


@pytest.mark.parametrize("case", CHANGES)
def test_what_no_file_of_weights_shows_is_not_saved(tmp_path, case):
    name, attribute, value = CHANGES[case]
    model = narrow()
    setattr(model.get_submodule(name), attribute, value)
    with pytest.raises(
        ValueError, match=rf"^save: model must have .* got {name} \({attribute} is .* instead of "
    ):
        save(model, tmp_path / "model.safetensors")
    assert not list(tmp_path.iterdir())


def test_what_a_file_shows_is_saved(tmp_path):
    """The configuration and the names of tensors; hooks, dropout and synchronised norms do not matter."""
    model = nn.SyncBatchNorm.convert_sync_batchnorm(narrow(eval_steps=3, decoder_align_corners=True))
    model.decoder.dropout.p = 0.5
    model.decoder.register_forward_hook(lambda *_: None)
    model.decoder.align.conv.adapter = nn.Conv2d(2, 2, 1)
    save(model, tmp_path / "model.safetensors")
