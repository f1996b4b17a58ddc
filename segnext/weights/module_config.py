"""Reads what no tensor shows from the modules of a model that other code built, in the terms of its configuration.

Attributes count, not classes: the official code, mmsegmentation and OpenVINO Training Extensions (OTX) have classes of
their own with nearly the same attributes. What they say goes through `segnext.weights.config_text`, so that a module
and a file of the same model are read, and refused, alike.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from segnext.weights.config_text import Settings, read_configuration

SOURCE = "the model's modules"
COMPILED = "_orig_mod"  # where torch.compile keeps what it compiles
HEAD_FIELDS = (
    *("in_index", "align_corners", "num_classes", "out_channels", "threshold"),
    *("channels", "ham_channels"),
)
# Names in a configuration, and the attributes of a factorisation: those of OTX are in small letters.
FACTORISATION_FIELDS = {
    "MD_R": ("R", "r"),
    "MD_S": ("S", "s"),
    "eval_steps": ("eval_steps",),
    "train_steps": ("train_steps",),
    "spatial": ("spatial",),
}
# A float32 holds seven digits: 123.675, which the model keeps as such, is 123.67500305 as a Python number.
DIGITS = 7


def factorisations(segmentor: nn.Module) -> list[nn.Module]:
    """Return the modules inside of the head's ``hamburger`` that take steps on bases, which is one in a SegNeXt."""
    hamburger = segmentor.get_submodule("decode_head.hamburger")
    return [
        module
        for module in hamburger.modules()
        # A compiled module shows the attributes of the module inside of it.
        if hasattr(module, "eval_steps")
        and (hasattr(module, "R") or hasattr(module, "r"))
        and COMPILED not in module._modules
    ]


def settings_of(segmentor: nn.Module, factorisation: nn.Module) -> Settings:
    """Return what the modules say about the network and its input."""
    settings = Settings()
    read_configuration({"model": _configuration(segmentor, factorisation)}, SOURCE, settings)
    return settings


def keep_order(settings: Settings) -> None:
    """Let a model take images with blue first as before; nothing is turned, as it would be for a file."""
    settings.bgr, settings.preprocessing = False, {}
    settings.notes.append(
        "the model takes images with blue first, as before; mean and std are left out of its metadata, since we read "
        "photographs with red first"
    )


def meta_of(segmentor: nn.Module) -> dict[str, Any]:
    """Return class names and palette, where mmsegmentation's functions put them: ``dataset_meta``, in 0.x CLASSES."""
    names = ("dataset_meta", "CLASSES", "PALETTE")
    return {name: value for name in names if (value := getattr(segmentor, name, None)) is not None}


def _configuration(segmentor: nn.Module, factorisation: nn.Module) -> dict[str, Any]:
    backbone, head = segmentor.get_submodule("backbone"), segmentor.get_submodule("decode_head")
    ham = {
        name: getattr(factorisation, attribute)
        for name, attributes in FACTORISATION_FIELDS.items()
        for attribute in attributes
        if hasattr(factorisation, attribute)
    }
    config: dict[str, Any] = {
        "backbone": {"norm_cfg": _norms(backbone), "act_cfg": _activation(backbone)},
        "decode_head": {
            **{name: getattr(head, name) for name in HEAD_FIELDS if hasattr(head, name)},
            "norm_cfg": _norms(head),
            "ham_kwargs": ham,
        },
    }
    processor = getattr(segmentor, "data_preprocessor", None)
    if isinstance(getattr(processor, "mean", None), Tensor):
        turned = any(getattr(processor, f"{start}channel_conversion", False) for start in ("", "_"))
        config["data_preprocessor"] = {
            "mean": _numbers(processor, "mean"),
            "std": _numbers(processor, "std"),
            "bgr_to_rgb": turned,
        }
    return config


def _norms(part: nn.Module) -> Mapping[str, Any]:
    """Return eps and groups of the first normalisation that has others than usual, or the usual ones."""
    found: dict[str, Any] = {}
    usual = {"eps": 1e-5, "num_groups": 32}
    for module in part.modules():
        for name, value in usual.items():
            if getattr(module, name, value) != value:
                found.setdefault(name, getattr(module, name))
    return usual | found


def _activation(part: nn.Module) -> Mapping[str, Any]:
    """Return the form of GELU; of another activation, the comparison of both models tells."""
    forms = [module.approximate for module in part.modules() if hasattr(module, "approximate")]
    return {"type": "GELU", "approximate": next((form for form in forms if form != "none"), "none")}


def _numbers(processor: Any, name: str) -> Any:
    value = getattr(processor, name, None)
    if not isinstance(value, Tensor):
        return value
    return [float(f"{number:.{DIGITS}g}") for number in value.flatten().tolist()]
