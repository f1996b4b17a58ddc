"""The entries of a config.json make the same model again."""

from __future__ import annotations

import json
from typing import Any

import pytest

from segnext import create_model
from segnext.data.preprocessing import Preprocessing
from segnext.integrations.mapping import config_of, entries_of, metadata_of, processor_options
from segnext.models import SegNeXt


@pytest.mark.parametrize(
    "options",
    [
        {"name": "segnext_t"},
        {"name": "segnext_b", "num_classes": 19, "rank": 16, "align_corners": True},
        {"name": "segnext_s_nl", "num_classes": 2, "threshold": 0.4, "strips": (7, 11)},
        {"name": "segnext_l_mlp", "in_channels": 4, "recompute": True, "drop_path": 0.0},
    ],
    ids=lambda options: options["name"],
)
def test_through_json(options: dict[str, Any]) -> None:
    model = create_model(**options)
    assert isinstance(model, SegNeXt)
    entries = json.loads(json.dumps(entries_of(model)))
    again = config_of(entries["architecture"], entries["overrides"], len(entries["id2label"]))
    assert again == model.config


def test_metadata_of_shipped_weights() -> None:
    model = create_model(weights="camvid")
    assert isinstance(model, SegNeXt)
    entries = entries_of(model)
    metadata = metadata_of(entries["id2label"], entries["preprocessing"], entries["palette"])
    assert metadata == {key: model.metadata[key] for key in ("classes", "palette", "preprocessing")}
    assert entries["label2id"]["sky"] == model.metadata["classes"].index("sky")


def test_classes_without_names() -> None:
    model = create_model("segnext_t", num_classes=3)
    assert isinstance(model, SegNeXt)
    assert entries_of(model)["id2label"] == {0: "class 0", 1: "class 1", 2: "class 2"}


def test_colours_of_other_classes_are_left_out() -> None:
    assert "palette" not in metadata_of({0: "a", 1: "b"}, None, [[0, 0, 0]] * 3)


def test_the_order_of_classes_is_that_of_their_ids() -> None:
    assert metadata_of({1: "b", 0: "a"}, None, None) == {"classes": ["a", "b"]}


def test_processor() -> None:
    assert processor_options(Preprocessing()) == {
        "do_resize": False,
        "resample": 2,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": pytest.approx([0.485, 0.456, 0.406]),
        "image_std": pytest.approx([0.229, 0.224, 0.225]),
        "do_reduce_labels": False,
    }
    resized = processor_options(Preprocessing(short_side=512))
    assert resized["do_resize"] and resized["size"] == {"shortest_edge": 512, "longest_edge": 2048}


@pytest.mark.parametrize(
    ("architecture", "overrides", "message"),
    [
        ("mscan_t", {}, "SegNextConfig: architecture must be one of segnext_t, .*, got mscan_t"),
        ("segnext_t", {"heads": 8}, "SegNextConfig: overrides must be fields of SegNeXtConfig, got heads; num_labels"),
        ("segnext_t", {"num_classes": 8}, "SegNextConfig: overrides must be fields .*, got num_classes"),
        ("segnext_t", {"rank": 0}, "segnext_t: rank must be at least 1, got 0"),
    ],
)  # fmt: skip
def test_errors(architecture: str, overrides: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        config_of(architecture, overrides, 5)


def test_other_bands_than_rgb() -> None:
    bands = Preprocessing(mean=(1.0, 2.0), std=(1.0, 1.0), bands=(0, 3))
    with pytest.raises(
        ValueError, match=r"image_processor: the model must read RGB images, got bands \(0, 3\)"
    ):
        processor_options(bands)
