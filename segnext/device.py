"""Finds the device that a command line or a caller names."""

from __future__ import annotations

import torch


def choose_device(device: torch.device | str) -> torch.device:
    """Return the torch device of a name; ``"auto"`` is a GPU if there is one, else the CPU.

    Raises:
        ValueError: this machine has no such device.
    """
    if str(device) == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
        torch.empty(0, device=chosen)
        if chosen.type == "meta":
            raise RuntimeError("it computes nothing")
    except (RuntimeError, AssertionError, NotImplementedError):
        raise ValueError(
            f"device must be 'auto', 'cpu' or an accelerator that torch {torch.__version__} sees here, got "
            f"{str(device)!r}; see `segnext doctor`"
        ) from None
    return chosen
