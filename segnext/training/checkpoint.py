"""Stores the training state in one safetensors file, which is replaced whole or not at all.

A run that is killed at any moment resumes bit-identically from its last checkpoint.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from segnext.atomic import replace_file
from segnext.models import SegNeXt
from segnext.training.ema import AveragedModel

FORMAT = "segnext-training-1"


@dataclass
class TrainingState:
    """Everything that the rest of a run depends on.

    Attributes:
        model: the trained model.
        average: its moving average.
        optimiser: AdamW, whose state is stored under parameter names.
        settings: the run's settings; a run with other settings is not resumed.
        step: optimiser steps done so far.
        seconds: training time so far, earlier sessions included.
        losses: losses of the steps since the last row of results.csv.
    """

    model: SegNeXt
    average: AveragedModel[SegNeXt]
    optimiser: torch.optim.Optimizer
    settings: dict[str, Any]
    step: int = 0
    seconds: float = 0.0
    losses: list[float] = field(default_factory=list)

    def save(self, path: Path) -> None:
        """Write the state and torch's random number generators to `path`.

        An older file stays until the new one is complete.
        """
        tensors: dict[str, Tensor] = {}
        for part, module in (("model", self.model), ("average", self.average.model)):
            tensors |= {f"{part}.{name}": tensor for name, tensor in module.state_dict().items()}
        for name, parameter in self.model.named_parameters():
            for key, value in self.optimiser.state.get(parameter, {}).items():
                tensors[f"optimiser.{name}.{key}"] = value
        tensors |= {f"random.{device}": state for device, state in self._random_states().items()}
        header = {
            "format": FORMAT,
            "settings": json.dumps(self.settings),
            "step": str(self.step),
            "seconds": str(self.seconds),
            "losses": json.dumps(self.losses),
        }
        tensors = {key: value.contiguous() for key, value in tensors.items()}
        replace_file(path, lambda temporary: save_file(tensors, temporary, metadata=header))

    def restore(self, path: Path) -> None:
        """Read the state from `path` into the model, its average, the optimiser and torch's generators.

        Raises:
            ValueError: the file is no checkpoint, is damaged, or belongs to another run's settings or model.
        """
        try:
            with safe_open(path, framework="pt") as file:
                header = file.metadata() or {}
                tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a mapping)
        except SafetensorError as error:
            raise ValueError(
                f"resume: {path} must be a training checkpoint, got a damaged file ({error}); "
                "start anew with --overwrite"
            ) from None
        if header.get("format") != FORMAT:
            raise ValueError(
                f"resume: {path} must be a training checkpoint of format {FORMAT}, "
                f"got {header.get('format')}; use --weights to start from a model's weights"
            )
        self._check_settings(self._in_todays_names(json.loads(header["settings"])), path)
        parts = _by_part(tensors)
        for part, module in (("model", self.model), ("average", self.average.model)):
            _copy_into(module, parts[part], path)
        parameters = dict(self.model.named_parameters())
        for name, value in parts.get("optimiser", {}).items():
            owner, _, key = name.rpartition(".")
            self.optimiser.state[parameters[owner]][key] = _like(parameters[owner], value)
        torch.set_rng_state(parts["random"]["cpu"])
        if "cuda" in parts["random"] and self._device().type == "cuda":
            torch.cuda.set_rng_state(parts["random"]["cuda"], self._device())
        self.step = int(header["step"])
        self.seconds = float(header["seconds"])
        self.losses[:] = json.loads(header["losses"])

    def _in_todays_names(self, stored: dict[str, Any]) -> dict[str, Any]:
        """Return a checkpoint's settings in today's names; older ones call dtype "precision" and lack preprocessing."""
        renamed = {{"precision": "dtype"}.get(key, key): value for key, value in stored.items()}
        return {"preprocessing": self.settings.get("preprocessing")} | renamed

    def _check_settings(self, stored: dict[str, Any], path: Path) -> None:
        differing = sorted(
            key for key in stored.keys() | self.settings.keys() if stored.get(key) != self.settings.get(key)
        )
        if differing:
            changes = ", ".join(f"{key} {stored.get(key)} -> {self.settings.get(key)}" for key in differing)
            raise ValueError(
                f"resume: settings must be those that {path} was trained with, got {changes}; "
                "repeat the original options, or start anew in another --output"
            )

    def _random_states(self) -> dict[str, Tensor]:
        states = {"cpu": torch.get_rng_state()}
        if self._device().type == "cuda":
            states["cuda"] = torch.cuda.get_rng_state(self._device())
        return states

    def _device(self) -> torch.device:
        return next(self.model.parameters()).device


def _by_part(tensors: dict[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    parts: dict[str, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        part, _, name = key.partition(".")
        parts.setdefault(part, {})[name] = tensor
    return parts


def _like(parameter: Tensor, value: Tensor) -> Tensor:
    """Return a moment of AdamW in its parameter's memory format, or its step counter, on the parameter's device."""
    return torch.empty_like(parameter).copy_(value) if value.ndim else value.to(parameter.device)


def _copy_into(module: nn.Module, source: dict[str, Tensor], path: Path) -> None:
    """Copy in place, so that each tensor keeps its memory format and device."""
    target = module.state_dict()
    mismatched = sorted(target.keys() ^ source.keys()) or sorted(
        name for name in target if target[name].shape != source[name].shape
    )
    if mismatched:
        raise ValueError(
            f"resume: the model must be the one in {path}, got {len(mismatched)} tensors that differ "
            f"({', '.join(mismatched[:3])}); repeat the original options"
        )
    with torch.no_grad():
        for name, tensor in target.items():
            tensor.copy_(source[name])
