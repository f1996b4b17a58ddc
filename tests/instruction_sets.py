"""Chooses the instruction set of the CPU kernels for a test."""

from __future__ import annotations

import pytest
import torch

from segnext_kernels import native


def available() -> list[int]:
    """Those that this machine has, as indices into `native.INSTRUCTION_SETS`."""
    if native._C is None:
        return []
    tiles = [native.TILES] if native.reason_against_tiles() is None else []
    return [*map(native.INSTRUCTION_SETS.index, native.runnable_sets()), *tiles]


def use_instruction_set(index: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Use one, or skip the test; with AMX, the best of the others for what is not bfloat16."""
    if index not in available():
        pytest.skip(f"this machine has no {native.INSTRUCTION_SETS[index]}")

    def chosen(dtype: torch.dtype = torch.float32) -> int:
        if index == native.TILES and dtype != torch.bfloat16:
            return int(native._C.best_instruction_set())
        return index

    monkeypatch.setattr(native, "instruction_set", chosen)
