"""What config.json of transformers holds of a SegNeXt, both ways; needs no transformers itself."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from segnext.data.preprocessing import LONGEST_RATIO, MEAN, Preprocessing
from segnext.models import SegNeXt
from segnext.models.config import SegNeXtConfig
from segnext.models.registry import CONFIGS
from segnext.one_line import one_line
from segnext.weights.identify import overrides_of

BILINEAR = 2  # in Pillow's numbers, which transformers writes into preprocessor_config.json


def config_of(architecture: str, overrides: Mapping[str, Any], num_labels: int) -> SegNeXtConfig:
    """Build our configuration from the entries of a config.json.

    Args:
        architecture: a name in ``segnext.list_models("segnext_*")``.
        overrides: fields that differ from the architecture's; ``num_classes`` is not among them.
        num_labels: number of classes.

    Raises:
        ValueError: an unknown architecture or field, or a value out of range.
    """
    names = [name for name, config in CONFIGS.items() if isinstance(config, SegNeXtConfig)]
    if architecture not in names:
        raise ValueError(
            f"SegNextConfig: architecture must be one of {', '.join(names)}, got {one_line(architecture)}"
        )
    known = {field.name for field in dataclasses.fields(SegNeXtConfig)} - {"architecture", "num_classes"}
    unknown = [key for key in overrides if key not in known]
    if unknown:
        raise ValueError(
            f"SegNextConfig: overrides must be fields of SegNeXtConfig, got {one_line(unknown[0])}; num_labels or "
            "id2label set the number of classes"
        )
    config = dataclasses.replace(CONFIGS[architecture], num_classes=num_labels, **overrides)
    assert isinstance(config, SegNeXtConfig)  # as that of the architecture
    return config


def entries_of(model: SegNeXt) -> dict[str, Any]:
    """Return the entries of a config.json that make the same model again, with class names and colours."""
    overrides = {name: value for name, value in overrides_of(model.config).items() if name != "num_classes"}
    count = model.config.num_classes
    classes = model.metadata.get("classes") or [f"class {index}" for index in range(count)]
    entries: dict[str, Any] = {
        "architecture": model.config.architecture,
        "overrides": {
            name: list(value) if isinstance(value, tuple) else value for name, value in overrides.items()
        },
        "id2label": dict(enumerate(classes)),
        "label2id": {name: index for index, name in enumerate(classes)},
        "preprocessing": Preprocessing.of(model.metadata).as_json(),
    }
    if "palette" in model.metadata:
        entries["palette"] = [list(map(int, colour)) for colour in model.metadata["palette"]]
    return entries


def metadata_of(
    id2label: Mapping[int, str],
    preprocessing: Mapping[str, Any] | None,
    palette: Sequence[Sequence[int]] | None,
) -> dict[str, Any]:
    """Return the metadata of a model that is built from a config.json: what :class:`segnext.Predictor` reads."""
    metadata: dict[str, Any] = {"classes": [id2label[index] for index in sorted(id2label)]}
    if preprocessing is not None:
        metadata["preprocessing"] = dict(preprocessing)
    if palette is not None and len(palette) == len(id2label):  # not of other classes
        metadata["palette"] = [list(colour) for colour in palette]
    return metadata


def processor_options(preprocessing: Preprocessing) -> dict[str, Any]:
    """Return the arguments of transformers' ``SegformerImageProcessor`` that make the network's input.

    Raises:
        ValueError: the model reads other bands than RGB, which that processor cannot.
    """
    if preprocessing.bands is not None or len(preprocessing.mean) != len(MEAN):
        raise ValueError(
            f"image_processor: the model must read RGB images, got bands {preprocessing.bands}; normalise the bands "
            "with segnext.data.preprocessing.Preprocessing, and call the model with pixel_values"
        )
    options: dict[str, Any] = {
        "do_resize": preprocessing.short_side is not None,
        "resample": BILINEAR,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": [value / 255 for value in preprocessing.mean],
        "image_std": [value / 255 for value in preprocessing.std],
        "do_reduce_labels": False,
    }
    if preprocessing.short_side is not None:
        short = preprocessing.short_side
        options["size"] = {"shortest_edge": short, "longest_edge": LONGEST_RATIO * short}
    return options
