"""Decodes the text of instructions into the rows of numbers that the executor runs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bench.issue_model.decode import control, floats, integers, memory
from bench.issue_model.decode.row import WIDTH, Row
from bench.issue_model.sass import Line, UnknownInstruction

DECODERS = {**integers.DECODERS, **floats.DECODERS, **memory.DECODERS, **control.DECODERS}


def program(lines: Sequence[Line], operations: dict[str, int]) -> np.ndarray:
    """Return one row per instruction."""
    rows = np.zeros((len(lines), WIDTH), np.int64)
    for line in lines:
        rows[line.address] = _decoded(line, operations)
    return rows


def _decoded(line: Line, operations: dict[str, int]) -> np.ndarray:
    row = Row(operations, line)
    base, *mods = line.name.split(".")
    plain = base
    if base not in DECODERS and base.startswith("U") and base[1:] in DECODERS:
        plain = base[1:]
        row["uniform"] = 1
    decoder = DECODERS.get(plain)
    if decoder is None:
        raise row.unknown()
    try:
        decoder(row, mods, list(line.operands))
    except (IndexError, ValueError, KeyError) as error:
        if isinstance(error, UnknownInstruction):
            raise
        raise row.unknown(f"{type(error).__name__}: {error}") from error
    return row.values
