"""Checks a model before its training starts: whether it can be trained, and saved afterwards."""

from __future__ import annotations

import torch

from segnext.models import MSCAN, SegNeXt
from segnext.models.dialects import to_official
from segnext.models.finite import expect_values, first_non_finite
from segnext.one_line import one_line
from segnext.weights.saving import expect_savable


def expect_trainable(model: object, kind: type[SegNeXt | MSCAN] = SegNeXt) -> None:
    """Raise a one-line error unless a model can be trained.

    Raises:
        TypeError: not of this kind, or not of float32.
        ValueError: nothing in it needs a gradient, its weights have no values or are not finite, it has parameters of
            its own, or it cannot be saved.
    """
    if not isinstance(model, kind):
        is_module = isinstance(model, torch.nn.Module)
        remedy = "model.compile() compiles one in place" if is_module else "create_model makes one"
        named = "a SegNeXt" if kind is SegNeXt else "an MSCAN"
        raise TypeError(f"train: model must be {named}, got {type(model).__name__}; {remedy}")
    parameters = dict(model.named_parameters())
    for name, parameter in parameters.items():
        _expect_trainable_parameter(name, parameter)
    expect_values("train", parameters)
    if not any(parameter.requires_grad for parameter in parameters.values()):
        raise ValueError(
            "train: a part of the model must need a gradient, got a model that is frozen as a whole"
        )
    bad = first_non_finite(model.state_dict())
    if bad is not None:
        raise ValueError(f"train: weights to start from must be finite, got NaN or Inf in {bad}; take others")
    # The final weights get the data set's names and colours.
    expect_savable(model, {k: v for k, v in model.metadata.items() if k not in ("classes", "palette")})


def _expect_trainable_parameter(name: str, parameter: torch.Tensor) -> None:
    if parameter.dtype != torch.float32:
        given = str(parameter.dtype).removeprefix("torch.")
        raise TypeError(
            f"train: weights must be float32, got {given} in {name}; call model.float(), and choose dtype in the "
            "settings"
        )
    try:
        to_official({name: parameter})
    except ValueError:
        raise ValueError(
            f"train: parameters must be those of encoder and decoder, got {one_line(name)}, for whose learning rate "
            "there is no rule; keep it outside of the model"
        ) from None
