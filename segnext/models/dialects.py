"""The checkpoint dialects of SegNeXt: one table of names, a few rules for each dialect.

A dialect is how a code base names (and sometimes shapes) the tensors of the same network. Everything here
works on plain dictionaries; ``segnext.weights`` reads and writes files.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from segnext.models.decoders import DECODERS
from segnext.one_line import one_line

DIALECTS = ("native", "official", "official_imagenet", "mmsegmentation", "geti", "jseg", "paddleseg")

# Beginnings of the encoder's and the classifiers' names; a SegNeXt's encoder has ``backbone.`` before them.
ENCODER = ("stem.", "downsamples.", "stages.", "norms.")
CLASSIFIERS = ("decoder.classifier.", "head.")
BACKBONE_PREFIX = "backbone."
# Endings of names that foreign checkpoints may lack; the model then keeps its own tensors.
BASES = "hamburger.bases"
OPTIONAL = (BASES, "num_batches_tracked")

# Official names and ours, which are translated both ways. Braces stand for a number, {rest} for anything. Official
# stages count from 1 and ours from 0; the three patch embeddings after the stem are our downsamples 0-2.
_ENCODER_NAMES = (
    ("patch_embed1.proj.0.{rest}", "stem.conv1.{rest}"),
    ("patch_embed1.proj.1.{rest}", "stem.norm1.{rest}"),
    ("patch_embed1.proj.3.{rest}", "stem.conv2.{rest}"),
    ("patch_embed1.proj.4.{rest}", "stem.norm2.{rest}"),
    ("patch_embed{down}.proj.{rest}", "downsamples.{down}.conv.{rest}"),
    ("patch_embed{down}.norm.{rest}", "downsamples.{down}.norm.{rest}"),
    ("block{stage}.{block}.norm1.{rest}", "stages.{stage}.{block}.norm1.{rest}"),
    ("block{stage}.{block}.norm2.{rest}", "stages.{stage}.{block}.norm2.{rest}"),
    ("block{stage}.{block}.layer_scale_1", "stages.{stage}.{block}.layer_scale1"),
    ("block{stage}.{block}.layer_scale_2", "stages.{stage}.{block}.layer_scale2"),
    ("block{stage}.{block}.attn.proj_1.{rest}", "stages.{stage}.{block}.attention.proj_in.{rest}"),
    ("block{stage}.{block}.attn.proj_2.{rest}", "stages.{stage}.{block}.attention.proj_out.{rest}"),
    (
        "block{stage}.{block}.attn.spatial_gating_unit.conv0.{rest}",
        "stages.{stage}.{block}.attention.strips.root.{rest}",
    ),
    (
        "block{stage}.{block}.attn.spatial_gating_unit.conv_spatial.{rest}",
        "stages.{stage}.{block}.attention.strips.dilated.{rest}",
    ),
    (
        "block{stage}.{block}.attn.spatial_gating_unit.conv{branch}_1.{rest}",
        "stages.{stage}.{block}.attention.strips.rows.{branch}.{rest}",
    ),
    (
        "block{stage}.{block}.attn.spatial_gating_unit.conv{branch}_2.{rest}",
        "stages.{stage}.{block}.attention.strips.columns.{branch}.{rest}",
    ),
    (
        "block{stage}.{block}.attn.spatial_gating_unit.conv3.{rest}",
        "stages.{stage}.{block}.attention.mix.{rest}",
    ),
    ("block{stage}.{block}.mlp.fc1.{rest}", "stages.{stage}.{block}.ffn.fc1.{rest}"),
    ("block{stage}.{block}.mlp.dwconv.dwconv.{rest}", "stages.{stage}.{block}.ffn.dwconv.{rest}"),
    ("block{stage}.{block}.mlp.fc2.{rest}", "stages.{stage}.{block}.ffn.fc2.{rest}"),
    ("norm{stage}.{rest}", "norms.{stage}.{rest}"),
)
_DECODER_NAMES = tuple(
    (f"decode_head.{official}", f"decoder.{native}")
    for decoder in DECODERS.values()
    for official, native in decoder.official_names
)
_OFFICIAL_MINUS_NATIVE = {"stage": 1, "down": 2, "block": 0, "branch": 0, "level": 0}

# Other code bases changed the official names; these rules, applied in this order, lead back to them.
_MMSEGMENTATION_RULES = ((r"\.mlp\.dwconv\.(weight|bias)$", r".mlp.dwconv.dwconv.\1"),)
_PADDLE_RULES = (
    (r"\.spatial_gating_unit\.dwconvs\.(\d+)\.conv\d+_([12])\.", r".spatial_gating_unit.conv\1_\2."),
    (r"\.spatial_gating_unit\.conv_out\.", ".spatial_gating_unit.conv3."),
    (r"\._mean$", ".running_mean"),
    (r"\._variance$", ".running_var"),
    (r"\._conv\.", ".conv."),
    (r"\._group_norm\.", ".gn."),
    (r"\.hamburger\.ham_in\.(weight|bias)$", r".hamburger.ham_in.conv.\1"),
    *_MMSEGMENTATION_RULES,
)
_TO_PADDLE = (
    (r"\.spatial_gating_unit\.conv3\.", ".spatial_gating_unit.conv_out."),
    (r"\.running_mean$", "._mean"),
    (r"\.running_var$", "._variance"),
    (r"\.(squeeze|align|ham_out)\.conv\.", r".\1._conv."),
    (r"\.(squeeze|align|ham_out)\.gn\.", r".\1._group_norm."),
    (r"\.ham_in\.conv\.", ".ham_in."),
)
_RULES: dict[str, tuple[tuple[str, str], ...]] = {
    "mmsegmentation": _MMSEGMENTATION_RULES,
    "geti": _MMSEGMENTATION_RULES,
    "paddleseg": _PADDLE_RULES,
}

# Parts that stand beside a SegNeXt and that its inference does not use: heads and losses of training, counters of
# averages, normalisation as a layer, and GeoCalib's own decoders.
BESIDE = re.compile(
    r"^(?:auxiliary_heads?|aux_heads?|aux_decoder|criterion|loss|loss_\w+|decode_head\.loss_decode|"
    r"data_preprocessor|ll_enc|perspective_decoder)\.|^(?:n_averaged|steps|num_updates|updates|decay|initted)$"
)

# DDP, torch.compile, Lightning and Geti put these before every name.
_WRAPPERS = re.compile(r"^(?:(?:module|model|_orig_mod)\.)+")
_OFFICIAL = re.compile(r"^(?:(?:backbone\.)?(?:patch_embed\d|block\d|norm\d)\.|decode_head\.)")


@dataclass(frozen=True)
class Translation:
    """A state dict in our names.

    Attributes:
        dialect: the one of ``DIALECTS`` that it came in.
        tensors: our name to tensor; names that no rule knows are kept as they are.
        reshaped: our names of the tensors whose shape was changed on the way.
    """

    dialect: str
    tensors: dict[str, Tensor]
    reshaped: list[str] = field(default_factory=list)


def bare_name(key: str) -> str:
    """Return a name without what DDP, torch.compile, Lightning and Geti put before it."""
    return _WRAPPERS.sub("", key)


def detect(state_dict: Mapping[str, Any]) -> str:
    """Find the one of ``DIALECTS`` that a state dict is in, with or without ``backbone.`` and wrapper prefixes.

    Raises:
        ValueError: it is in none of them.
    """
    keys = [bare_name(key) for key in state_dict]
    if any(key.removeprefix("backbone.").startswith(ENCODER) or key.startswith("decoder.") for key in keys):
        return "native"
    ours = [key for key in keys if _OFFICIAL.match(key)]
    if not ours:
        some = ", ".join(one_line(key, 60) for key in list(state_dict)[:3]) or "no keys at all"
        inner = next((key for key, value in state_dict.items() if isinstance(value, Mapping)), None)
        remedy = (
            "is it another network's checkpoint?" if inner is None else f"pass what is in {one_line(inner)!r}"
        )
        raise ValueError(
            f"state dict: names must be those of SegNeXt or MSCAN ({', '.join(DIALECTS)}), got {some}; {remedy}"
        )
    if any(re.search(r"\._mean$|\.dwconvs\.\d|\._group_norm\.|\.conv_out\.", key) for key in ours):
        return "paddleseg"
    if any(re.search(r"\.mlp\.dwconv\.(weight|bias)$", key) for key in ours):
        wrapped = any(key.startswith("model.model.") for key in state_dict)
        return (
            "geti"
            if wrapped or any(key.endswith("hamburger.ham.bases") for key in ours)
            else "mmsegmentation"
        )
    if any(isinstance(value, np.ndarray) for value in state_dict.values()):
        return "jseg"
    prefixed = any(key.startswith(("backbone.", "decode_head.")) for key in ours)
    return "official" if prefixed else "official_imagenet"


def translate(state_dict: Mapping[str, Any], native_keys: Iterable[str] | None = None) -> Translation:
    """Rename, and where needed reshape, a state dict of any dialect to ours.

    Args:
        state_dict: names to tensors or numpy arrays, in any of ``DIALECTS``.
        native_keys: the names of the model that will load it; they decide whether encoder names begin with
            ``backbone.`` (SegNeXt) or not (MSCAN). By default encoder names stay as they are.

    Raises:
        ValueError: an unknown dialect, or two names that mean the same tensor.
    """
    dialect = detect(state_dict)
    wants_prefix = None if native_keys is None else _has_backbone(native_keys)
    tensors: dict[str, Tensor] = {}
    reshaped: list[str] = []
    for key, value in state_dict.items():
        name = _prefixed(_native_name(bare_name(key), dialect), wants_prefix)
        tensor = _as_tensor(key, value, dialect)
        _add(tensors, name, _native_shape(name, tensor, dialect), key)
        if tensors[name].shape != tensor.shape:
            reshaped.append(name)
    return Translation(dialect, tensors, reshaped)


def _as_tensor(key: str, value: Any, dialect: str) -> Tensor:
    if isinstance(value, np.ndarray) and value.dtype == np.uint16 and dialect in ("paddleseg", "jseg"):
        # numpy has no bfloat16, and no framework trains in uint16: these are the bits of bfloat16, as Paddle saves them
        return torch.from_numpy(value.view(np.int16)).view(torch.bfloat16)
    if isinstance(value, np.ndarray) and value.dtype.kind in "biufc":
        return torch.from_numpy(value)
    if isinstance(value, Tensor):
        return value
    kind = f"an array of {value.dtype}" if isinstance(value, np.ndarray) else f"a {type(value).__name__}"
    raise ValueError(
        f"state dict: values must be tensors or arrays of numbers, got {kind} as {one_line(key)}"
    )


def to_native(state_dict: Mapping[str, Any], native_keys: Iterable[str] | None = None) -> dict[str, Tensor]:
    """Return the tensors of :func:`translate`; an empty state dict stays empty."""
    return translate(state_dict, native_keys).tensors if state_dict else {}


def fit_prefix(tensors: Mapping[str, Tensor], native_keys: Iterable[str]) -> dict[str, Tensor]:
    """Add or remove ``backbone.`` in our names, so that they are those of the model that ``native_keys`` name.

    Raises:
        ValueError: two names that mean the same tensor.
    """
    wants_prefix = _has_backbone(native_keys)
    fitted: dict[str, Tensor] = {}
    for key, tensor in tensors.items():
        _add(fitted, _prefixed(key, wants_prefix), tensor, key)
    return fitted


def to_official(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename a state dict of ours to the official code's names.

    The NMF bases are left out: the official model draws them anew and has no place for them.

    Raises:
        ValueError: a name that is not ours.
    """
    official = {}
    for key, tensor in state_dict.items():
        if not key.endswith(BASES):
            official[_official_name(key)] = tensor
    return official


def to_mmsegmentation(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename a state dict of ours to the names of mmsegmentation 0.31 and 1.x, see :func:`to_official`."""
    return {
        key.replace(".mlp.dwconv.dwconv.", ".mlp.dwconv."): tensor
        for key, tensor in to_official(state_dict).items()
    }


def to_paddleseg(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename, and where needed reshape, a state dict of ours for PaddleSeg, see :func:`to_official`.

    Paddle's normalisation counts no batches, and its Linear stores (in, out).
    """
    paddle = {}
    for key, tensor in to_mmsegmentation(state_dict).items():
        if key.endswith("num_batches_tracked"):
            continue
        for pattern, replacement in _TO_PADDLE:
            key = re.sub(pattern, replacement, key)
        key = re.sub(r"\.conv(\d+)_([12])\.", lambda m: f".dwconvs.{m[1]}.conv{int(m[1]) + 1}_{m[2]}.", key)
        if ".layer_scale_" in key:
            tensor = tensor.reshape(-1, 1, 1)
        paddle[key] = tensor.mT.contiguous() if key == "head.weight" else tensor
    return paddle


def _add(tensors: dict[str, Tensor], name: str, tensor: Tensor, key: str) -> None:
    if name in tensors:
        raise ValueError(f"state dict: each tensor must be there once, got a second {name} from {key}")
    tensors[name] = tensor


def _has_backbone(native_keys: Iterable[str]) -> bool:
    return any(key.startswith("backbone.") for key in native_keys)


def _prefixed(name: str, wants_prefix: bool | None) -> str:
    if wants_prefix and name.startswith(ENCODER):
        return f"backbone.{name}"
    return name.removeprefix("backbone.") if wants_prefix is False else name


def _native_name(key: str, dialect: str) -> str:
    if dialect == "native":
        return key
    for pattern, replacement in _RULES.get(dialect, ()):
        key = re.sub(pattern, replacement, key)
    prefix = "backbone." if key.startswith("backbone.") else ""
    for renamed in (rename(key.removeprefix(prefix)) for rename in _TO_NATIVE):
        if renamed is not None:
            return prefix + renamed
    return key


def _official_name(key: str) -> str:
    prefix = "backbone." if key.startswith("backbone.") else ""
    bare = key.removeprefix(prefix)
    if bare.startswith("head."):
        return key
    for renamed in (rename(bare) for rename in _TO_OFFICIAL):
        if renamed is not None:
            return prefix + renamed
    raise ValueError(f"to_official: names must be those of model.state_dict(), got {key}; translate it first")


def _native_shape(name: str, tensor: Tensor, dialect: str) -> Tensor:
    if name.endswith((".layer_scale1", ".layer_scale2")) and tensor.ndim > 1:
        return tensor.reshape(-1)  # (C, 1, 1) in PaddleSeg, (C,) elsewhere
    if dialect == "paddleseg" and name == "head.weight":
        return tensor.mT.contiguous()  # Paddle's Linear stores (in, out)
    return tensor


def _renamer(source: str, target: str, offset: int) -> Callable[[str], str | None]:
    """Make a function that maps names of the form ``source`` to ``target`` and others to None."""
    pattern = re.escape(source).replace(r"\{", "{").replace(r"\}", "}")
    pattern = re.sub(r"\{(\w+)\}", lambda m: f"(?P<{m[1]}>{'.+' if m[1] == 'rest' else '[0-9]+'})", pattern)
    compiled = re.compile(pattern)

    def rename(key: str) -> str | None:
        match = compiled.fullmatch(key)
        if match is None:
            return None
        values = {
            name: text if name == "rest" else int(text) + offset * _OFFICIAL_MINUS_NATIVE[name]
            for name, text in match.groupdict().items()
        }
        return target.format(**values)

    return rename


_TO_NATIVE = [_renamer(official, native, -1) for official, native in _ENCODER_NAMES + _DECODER_NAMES]
_TO_OFFICIAL = [_renamer(native, official, +1) for official, native in _ENCODER_NAMES + _DECODER_NAMES]
