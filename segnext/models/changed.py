"""Finds the layers that are not what the network was built with, so that no fused op passes them by.

A fused op takes the parameters of several layers at once and calls none of them. That is right as long as each layer is
what its parent made. It is not for a layer with hooks (pruning, activation statistics), with parametrisations, with
another geometry, or one that was replaced (adapters, quantisation). Such a layer has to be called.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import nn
from torch.nn.modules import module as torch_module
from torch.utils.module_tracker import ModuleTracker

from segnext.models.batch_norm import BatchNorm

# Attributes that decide a module's result in evaluation. Dropout and momentum do not; folding reads a BatchNorm's eps.
DECIDING = (
    *("kernel_size", "stride", "padding", "dilation", "groups", "padding_mode"),
    *("num_groups", "normalized_shape", "random_eval_bases", "eval_steps", "align_corners", "gate"),
)
WAYS_FORWARD = ("forward", "forward_logits", "forward_features")  # of models
BATCH_NORMS = (BatchNorm, nn.BatchNorm2d, nn.SyncBatchNorm)  # equal in evaluation


def is_observed(module: nn.Module) -> bool:
    """Whether calling the module does more than its class's ``forward``: hooks, or a ``forward`` of its own.

    Takes less than a microsecond. Hooks for all modules (:func:`has_global_hooks`) count too.
    """
    return bool(
        module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
        or "forward" in module.__dict__
        or "_conv_forward" in module.__dict__  # where others change the padding of convolutions
        or has_global_hooks()
    )


def has_global_hooks() -> bool:
    """Whether hooks are registered for all modules, as ``register_module_forward_hook`` does."""
    kinds: tuple[dict[int, Any], ...] = (
        torch_module._global_forward_hooks,
        torch_module._global_forward_pre_hooks,
        torch_module._global_backward_hooks,
        torch_module._global_backward_pre_hooks,
    )
    if not any(kinds):
        return False
    # PyTorch's FlopCounterMode names modules by such hooks. It counts a fused op by the op's own formula, and
    # what is measured under it (`segnext.measure`) has to be what runs without it.
    return any(
        not isinstance(getattr(hook, "__self__", None), ModuleTracker)
        for kind in kinds
        for hook in kind.values()
    )


@dataclass(frozen=True)
class Layer:
    """What decides a module's result in evaluation, beside the values of its tensors.

    Attributes:
        kind: its class.
        attributes: values of ``DECIDING``, by name, and eps where it matters.
        shapes: of its own parameters and buffers, by name; None where it has none of that name.
    """

    kind: type[nn.Module]
    attributes: dict[str, Any]
    shapes: dict[str, tuple[int, ...] | None]

    @classmethod
    def of(cls, module: nn.Module) -> Layer:
        """Describe a module; a SyncBatchNorm as the BatchNorm that it is in evaluation."""
        is_batch_norm = type(module) in BATCH_NORMS
        names = DECIDING if is_batch_norm else (*DECIDING, "eps")
        attributes = {name: getattr(module, name) for name in names if name in module.__dict__}
        tensors: dict[str, torch.Tensor | None] = {**module._parameters, **module._buffers}
        shapes = {name: None if tensor is None else tuple(tensor.shape) for name, tensor in tensors.items()}
        return cls(BatchNorm if is_batch_norm else type(module), attributes, shapes)

    def difference(self, built: Layer) -> str | None:
        """Say in a few words how this differs from what was built."""
        if self.kind is not built.kind:
            return f"{self.kind.__name__} instead of {built.kind.__name__}"
        for mine, its in ((self.attributes, built.attributes), (self.shapes, built.shapes)):
            for name in mine | its:
                if mine.get(name) != its.get(name):
                    return f"{name} is {mine.get(name)} instead of {its.get(name)}"
        return None


def layers(model: nn.Module) -> dict[str, Layer]:
    """Describe all modules below a model, by name; models keep the result when they are built, as ``layers_built``.

    A module in several places is described in each of them.
    """
    return {name: Layer.of(module) for name, module in model.named_modules(remove_duplicate=False) if name}


def first_changed_child(module: nn.Module) -> str | None:
    """Name the first part of a model that is not as it was built, and why; None if all are.

    Parameters and buffers may have other values. Dropout, momentum and backward hooks may be anything, because they
    have no effect in evaluation; a SyncBatchNorm passes for a BatchNorm. Of the model itself, which may be of a
    subclass, hooks and its ways forward count.

    Args:
        module: a SegNeXt or an MSCAN.

    Returns:
        For example ``"backbone.stages.0.0.ffn.fc1 (Adapter instead of Pointwise)"``.
    """
    built: dict[str, Layer] = cast(Any, module).layers_built
    given = layers(module)
    for name, part in module.named_modules(remove_duplicate=False):
        reason = None
        if part._forward_hooks or part._forward_pre_hooks:
            reason = "has forward hooks"
        elif (method := _replaced_method(part)) is not None:
            reason = f"its {method} was replaced"
        elif not name:
            reason = _other_way_forward(type(part))
        else:
            reason = given[name].difference(built[name]) if name in built else f"{type(part).__name__}, added"
        if reason is not None:
            return f"{name or type(part).__name__} ({reason})"
    return next((f"{name} (missing)" for name in built if name not in given), None)


def first_unsaved_change(model: nn.Module, plain: nn.Module) -> str | None:
    """Name the first layer whose geometry or eps neither its tensors nor the model's configuration show, and how.

    A file of the model's weights would load without an error, and compute something else. Other changes are no matter
    of files: hooks, replaced methods, layers whose tensors have other names.

    Args:
        model: a SegNeXt or an MSCAN.
        plain: a new one of the same configuration; it may be on the meta device.
    """
    for name, part in plain.named_modules():
        given = _submodule(model, name)
        if given is None or not name:
            continue
        layer, built = Layer.of(given), Layer.of(part)
        if layer.shapes.keys() == built.shapes.keys() and layer.attributes != built.attributes:
            return f"{name} ({layer.difference(built)})"
        eps = getattr(given, "eps", None), getattr(part, "eps", None)  # which folding reads, of a BatchNorm
        if type(given) in BATCH_NORMS and eps[0] != eps[1]:
            return f"{name} (eps is {eps[0]} instead of {eps[1]})"
    return None


def _submodule(model: nn.Module, name: str) -> nn.Module | None:
    try:
        return model.get_submodule(name)
    except AttributeError:
        return None


def _replaced_method(part: nn.Module) -> str | None:
    """Name a method of the forward pass that this one module has of its own, instead of its class's.

    Methods that every module has, such as ``train`` and ``state_dict``, are none of it; nor is ``predict`` of a model.
    """
    for name in part.__dict__:
        if name in WAYS_FORWARD:
            return name
        its_class = getattr(type(part), name, None)
        if (
            inspect.isfunction(its_class)
            and not hasattr(nn.Module, name)
            and not hasattr(part, "layers_built")
        ):
            return name
    return None


def _other_way_forward(kind: type[nn.Module]) -> str | None:
    """Say which method of a model's forward pass a subclass overrides."""
    for name in WAYS_FORWARD:
        method = getattr(kind, name, None)
        if method is not None and not method.__module__.startswith("segnext.models."):
            return f"its {name} was replaced"
    return None
