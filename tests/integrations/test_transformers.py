"""SegNeXt as transformers, accelerate and PEFT use it, in an environment of their own.

`make interop` makes that environment; SEGNEXT_INTEGRATIONS_PYTHON names the interpreter of another one.
"""

from __future__ import annotations

from typing import Any

import pytest

from tests.integrations.interpreter import facts, needs_integrations

pytestmark = needs_integrations

ROUNDING = 2e-6  # a few float32 roundings, as a share of the largest number


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return facts("transformers_facts", tmp_path_factory.mktemp("transformers"))


def test_forward(found: dict[str, Any]) -> None:
    facts = found["forward"]
    assert facts["logits"] <= ROUNDING and facts["shape"] == [2, 11, 9, 13]
    assert facts["hidden"] == [[2, 32, 17, 25], [2, 64, 9, 13], [2, 160, 5, 7], [2, 256, 3, 4]]
    assert facts["no hidden states"]
    assert facts["tuple"] == [[2, 11, 9, 13]]
    assert facts["sizes"] == [3, [32, 64, 160, 256]]


def test_the_loss_is_that_of_logits_at_the_labels_size(found: dict[str, Any]) -> None:
    assert found["forward"]["loss"] <= ROUNDING


@pytest.mark.parametrize("model", ["corners", "threshold"])
def test_post_processing_fits_every_model(model: str, found: dict[str, Any]) -> None:
    assert found["other_logits"][model] == 1.0


def test_files(found: dict[str, Any]) -> None:
    facts = found["files"]
    assert facts["files"] == ["config.json", "model.safetensors", "preprocessor_config.json"]
    model, processor = facts["classes"]
    assert model == "SegNextForSemanticSegmentation"
    assert processor in ("SegformerImageProcessor", "SegformerImageProcessorFast")  # 5.24; up to 5.0
    assert facts["equal"] and not facts["training"]
    assert facts["id2label"]
    assert facts["bfloat16"] == "torch.bfloat16"
    assert facts["from config"] == "SegNextForSemanticSegmentation"


def test_preprocessing_and_colours_are_in_the_files(found: dict[str, Any]) -> None:
    facts = found["files"]
    assert facts["metadata"]["preprocessing"]["short_side"] == 720
    assert facts["metadata"]["palette"][0] == [128, 128, 128]
    assert facts["processor"]["do_resize"] and facts["size"] == [720, 2880]
    assert facts["processor"]["image_mean"] == pytest.approx([0.485, 0.456, 0.406])
    assert facts["processor"]["image_std"] == pytest.approx([0.229, 0.224, 0.225])


def test_other_classes(found: dict[str, Any]) -> None:
    """A new classifier is drawn as ours are, and the colours of the old classes are left out."""
    assert found["files"]["other classes"] == [[5, 256, 1, 1], True]
    assert found["files"]["other metadata"] == ["classes", "preprocessing"]


def test_a_file_that_lacks_some_tensors_of_a_layer(found: dict[str, Any]) -> None:
    facts = found["missing_tensors"]
    assert facts["kept"]
    assert facts["drawn"] == [pytest.approx(0.01), 0.0, 0]
    assert facts["bases"]


def test_masks_are_those_of_the_predictor(found: dict[str, Any]) -> None:
    """The photograph has the weights' short side, so that nothing is resized but the logits."""
    facts = found["masks"]
    assert facts["by hand"] >= 0.9999  # 1 pixel of 691,200 was seen to differ
    assert facts["pipeline"] == facts["by hand"]
    assert facts["complaints"] == []
    assert facts["predictor"] == 1.0
    assert {"road", "sky", "tree"} <= set(facts["labels"])


def test_masks_of_a_resized_photograph(found: dict[str, Any]) -> None:
    """The processor rounds the resized photograph to whole numbers; 0.41 % of the pixels were seen to differ."""
    assert found["masks"]["resized"] >= 0.99


@pytest.mark.parametrize("run", ["plain", "recomputed", "accelerate"])
def test_two_steps_of_training_make_the_loss_smaller(run: str, found: dict[str, Any]) -> None:
    first, second = found["training"][run]
    assert second < 0.9 * first


def test_gradient_checkpointing_is_our_recompute(found: dict[str, Any]) -> None:
    assert found["training"]["plain recompute"] == [False, False]
    assert found["training"]["recomputed recompute"] == [True, True]


def test_adapters(found: dict[str, Any]) -> None:
    """LoRA on all 1x1 convolutions begins with the same logits, and only its own tensors get gradients."""
    assert found["adapters"]["start"] <= 1e-5
    assert found["adapters"]["trained"] and found["adapters"]["gradients"]


@pytest.mark.parametrize(
    ("what", "expected"),
    [
        ("architecture", "SegNextConfig: architecture must be one of segnext_t, segnext_s, segnext_b"),
        ("encoder", "from_segnext: model must be a SegNeXt or a name or path of weights, got MSCAN"),
        ("classes", "from_segnext: id2label must name 11 classes as the model has, got 2"),
        ("bands", "image_processor: the model must read RGB images, got bands (0, 1, 2, 3)"),
    ],
)
def test_errors(what: str, expected: str, found: dict[str, Any]) -> None:
    assert found["errors"][what].startswith(expected)
