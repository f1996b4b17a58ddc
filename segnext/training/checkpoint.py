"""Stores the training state in one safetensors file, which is replaced whole or not at all.

A run that is killed at any moment resumes bit-identically from its last checkpoint.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from segnext.atomic import replace_file
from segnext.models import MSCAN, SegNeXt
from segnext.models.config import FORMER_NAMES
from segnext.models.finite import non_finite
from segnext.one_line import one_line
from segnext.ranks import Ranks
from segnext.training.determining import LATER, PREFIXES
from segnext.training.ema import AveragedModel
from segnext.weights.containers import read_safetensors
from segnext.weights.saving import in_own_memory

FORMAT = "segnext-training-1"

# What AdamW keeps per parameter.
_MOMENTS = frozenset(("step", "exp_avg", "exp_avg_sq"))
# Settings that may differ, and the run says so: images were repaired, added or removed, or there are other GPUs.
_MAY_CHANGE = frozenset(("images", "ranks"))


class NotFinite(ValueError):
    """Weights, their average or the optimiser hold NaN or infinity; the message names the tensors."""


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
        scaler: scales the loss in float16; it is disabled for other types.
        ended: why the run has ended before its last step; empty: it has not.
    """

    model: SegNeXt | MSCAN
    average: AveragedModel[Any]
    optimiser: torch.optim.Optimizer
    settings: dict[str, Any]
    step: int = 0
    seconds: float = 0.0
    losses: list[float] = field(default_factory=list)
    scaler: torch.amp.GradScaler = field(default_factory=lambda: torch.amp.GradScaler("cpu", enabled=False))
    ended: str = ""

    @property
    def device(self) -> torch.device:
        """The device on which the model is."""
        return next(self.model.parameters()).device

    def save(self, path: Path) -> None:
        """Write the state and torch's random number generators to `path`.

        An older file stays until the new one is complete.

        Raises:
            NotFinite: nothing is written.
            OSError: the system refuses to write.
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
            "tensors": str(len(tensors)),
            "scaler": json.dumps(self.scaler.state_dict()),
            "ended": self.ended,
        }
        wrong = list(non_finite(tensors))
        if wrong:
            raise NotFinite(f"{len(wrong)} of {len(tensors)} tensors that are not ({', '.join(wrong[:3])})")
        tensors = in_own_memory({key: value.contiguous() for key, value in tensors.items()})
        replace_file(path, lambda temporary: save_file(tensors, temporary, metadata=header))

    def restore(self, path: Path) -> list[str]:
        """Read the state from `path` into the model, its average, the optimiser and torch's generators.

        Returns:
            A line for each setting that differs and may do so.

        Raises:
            ValueError: the file is no checkpoint, is damaged, or belongs to another run's settings or model.
        """
        header, tensors = _read(path)
        notes = self._check_settings(self._in_todays_names(header.settings), path)
        steps = self.settings.get("steps", math.inf)
        if not 0 <= header.step <= steps:
            raise _damaged(path, f"step {header.step} of {steps}")
        parts = _by_part(tensors)
        for part, module in (("model", self.model), ("average", self.average.model)):
            _check_tensors(module, parts.get(part, {}), path)
        moments = _moments(dict(self.model.named_parameters()), parts.get("optimiser", {}), path)
        if header.step and not header.tensors and not moments:  # older checkpoints do not count their tensors
            raise _damaged(path, "no optimiser")
        if any(not _is_possible(values, header.step) for values in moments.values()):
            raise _damaged(path, "impossible values of the optimiser")
        if header.tensors not in (None, len(tensors)):
            raise _damaged(path, f"{len(tensors)} of {header.tensors} tensors")
        wrong = list(non_finite(tensors))
        if wrong:
            raise _damaged(path, f"values that are not finite in {', '.join(wrong[:3])}")
        if self.scaler.is_enabled() and not _is_scaler(header.scaler):
            raise _damaged(path, "no scale of the loss")
        self._set_random_states(parts.get("random", {}), path)
        # From here on nothing is refused, so that a damaged file leaves the model as it was.
        with torch.no_grad():
            for part, module in (("model", self.model), ("average", self.average.model)):
                for name, tensor in module.state_dict().items():
                    tensor.copy_(parts[part][name])  # in place, so that it keeps its memory format and device
        for parameter, values in moments.items():
            self.optimiser.state[parameter] = {key: _like(parameter, value) for key, value in values.items()}
        if self.scaler.is_enabled():
            self.scaler.load_state_dict(header.scaler)
        self.step = header.step
        self.seconds = header.seconds
        self.losses[:] = header.losses
        self.ended = header.ended
        return notes

    def take_from_first(self, ranks: Ranks) -> None:
        """Become the state of the run's first process, but for the settings and torch's generators."""
        if ranks.count == 1:
            return
        parameters = list(self.model.parameters())
        known = [bool(self.optimiser.state.get(parameter)) for parameter in parameters]
        self.step, self.seconds, self.losses[:], known, scaler, self.ended = ranks.of_first(
            lambda: (
                *(self.step, self.seconds, self.losses[:], known),
                *(self.scaler.state_dict(), self.ended),
            )
        )
        if self.scaler.is_enabled():
            self.scaler.load_state_dict(scaler)
        tensors = [*self.model.state_dict().values(), *self.average.model.state_dict().values()]
        for parameter, is_known in zip(parameters, known, strict=True):
            if is_known:
                state = self.optimiser.state[parameter]
                state.setdefault("step", torch.zeros((), device=parameter.device))
                for name in ("exp_avg", "exp_avg_sq"):
                    state.setdefault(name, torch.zeros_like(parameter, requires_grad=False))
                tensors += [state[name] for name in sorted(_MOMENTS)]
        ranks.take_from_first(tensors)

    def _in_todays_names(self, stored: dict[str, Any]) -> dict[str, Any]:
        """Return a checkpoint's settings in today's names; older ones call dtype "precision" and lack some."""
        renamed = {{"precision": "dtype"}.get(key, key): value for key, value in stored.items()}
        lacking = {
            key: LATER.get(key, value)
            for key, value in self.settings.items()
            if key in LATER or key == "preprocessing" or key.startswith(PREFIXES)
        }
        if renamed.get("model.decoder") in FORMER_NAMES:
            renamed["model.decoder"] = FORMER_NAMES[renamed["model.decoder"]]
        return lacking | renamed

    def _check_settings(self, stored: dict[str, Any], path: Path) -> list[str]:
        differing = sorted(
            key for key in stored.keys() | self.settings.keys() if stored.get(key) != self.settings.get(key)
        )
        changes = [
            f"{one_line(key)} {one_line(stored.get(key))} -> {one_line(self.settings.get(key))}"
            for key in differing
        ]
        may_change = _MAY_CHANGE | ({"accumulate"} if _parts(stored) == _parts(self.settings) else set())
        if not may_change.issuperset(differing):
            raise ValueError(
                f"resume: settings must be those that {path} was trained with, got {', '.join(changes[:8])}"
                f"{', ...' if len(changes) > 8 else ''}; "
                "repeat the original options, or start anew in another --output"
            )
        return [
            f"note: {change} since the checkpoint; the result is not that of an undisturbed run"
            for change in changes
        ]

    def _random_states(self) -> dict[str, Tensor]:
        states = {"cpu": torch.get_rng_state()}
        if self.device.type == "cuda":
            states["cuda"] = torch.cuda.get_rng_state(self.device)
        return states

    def _set_random_states(self, states: dict[str, Tensor], path: Path) -> None:
        try:
            torch.set_rng_state(states["cpu"])
            if "cuda" in states and self.device.type == "cuda":
                torch.cuda.set_rng_state(states["cuda"], self.device)
        except (KeyError, RuntimeError, TypeError):
            raise _damaged(path, "no state of the random numbers") from None


@dataclass(frozen=True)
class _Header:
    """A checkpoint's numbers beside its tensors; `tensors` counts them and is None in older files."""

    settings: dict[str, Any]
    step: int
    seconds: float
    losses: list[float]
    tensors: int | None
    scaler: dict[str, Any]
    ended: str


def _read(path: Path) -> tuple[_Header, dict[str, Tensor]]:
    """Return header and tensors of a checkpoint.

    Raises:
        ValueError: one line for whatever is wrong with the file.
    """
    if not path.is_file():
        raise ValueError(
            f"resume: {path} must be a training checkpoint, got a folder or a link to nothing; remove it"
        )
    try:
        tensors, text = read_safetensors(path)
    except ValueError as error:
        raise ValueError(f"resume: {error}; start anew with --overwrite") from None
    if text.get("format") != FORMAT:
        raise ValueError(
            f"resume: {path} must be a training checkpoint of format {FORMAT}, "
            f"got {str(text.get('format'))[:80]}; use --weights to start from a model's weights"
        )
    try:
        settings, losses = json.loads(text["settings"]), json.loads(text["losses"])
        header = _Header(
            {str(key): value for key, value in settings.items()},
            int(text["step"]),
            float(text["seconds"]),
            [float(loss) for loss in losses],
            int(text["tensors"]) if "tensors" in text else None,
            dict(json.loads(text.get("scaler", "{}"))),
            one_line(text.get("ended", "")),
        )
        if not 0 <= header.seconds < math.inf:
            raise ValueError("seconds")
    except (KeyError, ValueError, TypeError, AttributeError, RecursionError) as error:
        what = f"no {error.args[0]}" if isinstance(error, KeyError) else "a damaged header"
        raise _damaged(path, what) from None
    return header, tensors


def _damaged(path: Path, found: str) -> ValueError:
    return ValueError(
        f"resume: {path} must be a training checkpoint, got {found}; start anew with --overwrite"
    )


def _parts(settings: dict[str, Any]) -> int | None:
    """Return into how many parts a batch is cut; with the same number, more processes have fewer parts each."""
    ranks, accumulate = settings.get("ranks"), settings.get("accumulate")
    return ranks * accumulate if isinstance(ranks, int) and isinstance(accumulate, int) else None


def _is_scaler(values: dict[str, Any]) -> bool:
    """Whether these are the numbers of a GradScaler."""
    names = {"scale", "growth_factor", "backoff_factor", "growth_interval", "_growth_tracker"}
    return values.keys() == names and all(
        type(value) in (int, float) and 0 <= value < math.inf for value in values.values()
    )


def _by_part(tensors: dict[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    parts: dict[str, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        part, _, name = key.partition(".")
        parts.setdefault(part, {})[name] = tensor
    return parts


def _is_possible(values: dict[str, Tensor], step: int) -> bool:
    """Whether an optimiser can have kept these of a parameter after so many steps; some may have had no labels."""
    return 0 <= values["step"].item() <= step and not bool((values["exp_avg_sq"] < 0).any())


def _like(parameter: Tensor, value: Tensor) -> Tensor:
    """Return a moment of AdamW in its parameter's memory format, or its step counter, on the parameter's device."""
    return torch.empty_like(parameter).copy_(value) if value.ndim else value.to(parameter.device)


def _check_tensors(module: nn.Module, source: dict[str, Tensor], path: Path) -> None:
    target = module.state_dict()
    mismatched = sorted(target.keys() ^ source.keys()) or sorted(
        name
        for name in target
        if target[name].shape != source[name].shape or target[name].dtype != source[name].dtype
    )
    if mismatched:
        raise ValueError(
            f"resume: the model must be the one in {path}, got {len(mismatched)} tensors that differ "
            f"({', '.join(mismatched[:3])}); repeat the original options"
        )


def _moments(
    parameters: dict[str, nn.Parameter], stored: dict[str, Tensor], path: Path
) -> dict[nn.Parameter, dict[str, Tensor]]:
    """Return what AdamW kept per parameter."""
    moments: dict[nn.Parameter, dict[str, Tensor]] = {}
    for name, value in stored.items():
        owner, _, key = name.rpartition(".")
        shape = parameters[owner].shape if owner in parameters and key != "step" else torch.Size([])
        if (
            owner not in parameters
            or key not in _MOMENTS
            or value.shape != shape
            or value.dtype != torch.float32
        ):
            raise _damaged(path, f"an optimiser of other parameters ({name[:80]})")
        moments.setdefault(parameters[owner], {})[key] = value
    if any(values.keys() != _MOMENTS for values in moments.values()):
        raise _damaged(path, "half an optimiser")
    return moments
