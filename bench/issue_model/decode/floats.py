"""Decodes floating-point arithmetic, conversions, and products on tensor cores."""

from __future__ import annotations

import re

from bench.issue_model.decode.integers import COMBINATIONS, COMPARISONS
from bench.issue_model.decode.row import FIRST_SOURCE, IMMEDIATE, Decoder, Row, is_predicate

ROUNDINGS = {"RN": 0, "RM": 1, "RP": 2, "RZ": 3}
TO_INTEGER = {"NEAREST": 0, "FLOOR": 1, "CEIL": 2, "TRUNC": 3}
FUNCTIONS = {
    "RCP": 0,
    "RSQ": 1,
    "EX2": 2,
    "LG2": 3,
    "SIN": 4,
    "COS": 5,
    "SQRT": 6,
    "TANH": 7,
    "RCP64H": 8,
    "RSQ64H": 9,
}


def comparison(mods: list[str]) -> int:
    return COMPARISONS[next(m for m in mods if m in COMPARISONS)]


def _fsetp(row: Row, mods: list[str], ops: list[str]) -> None:
    row.pred(0, ops[0])
    row.pred(1, ops[1])
    row.sources(ops[2:4], "float")
    row.reads(0, ops[4])
    row.op("FSETP", comparison(mods), 0, COMBINATIONS[next(m for m in mods if m in COMBINATIONS)])


def _dsetp(row: Row, mods: list[str], ops: list[str]) -> None:
    row.pred(0, ops[0])
    row.pred(1, ops[1])
    row.sources(ops[2:4], "double")
    row.reads(0, ops[4])
    row.op("DSETP", comparison(mods), 0, COMBINATIONS[next(m for m in mods if m in COMBINATIONS)])


def _fset(row: Row, mods: list[str], ops: list[str]) -> None:
    row.dest(ops[0])
    row.sources(ops[1:3], "float")
    row.reads(0, ops[3])
    row.op(
        "FSET",
        comparison(mods),
        0,
        COMBINATIONS[next(m for m in mods if m in COMBINATIONS)],
        int("BF" in mods),
    )


def _hsetp2(row: Row, mods: list[str], ops: list[str]) -> None:
    row.pred(0, ops[0])
    row.pred(1, ops[1])
    row.sources(ops[2:4], "half")
    row.reads(0, ops[4])
    row.op(
        "HSETP2",
        comparison(mods),
        0,
        COMBINATIONS[next(m for m in mods if m in COMBINATIONS)],
        low_kind(mods),
    )


def low_kind(mods: list[str]) -> int:
    """Return 1 for float16, 2 for bfloat16."""
    return 2 if any(m.startswith("BF16") for m in mods) else 1


def _fsel(row: Row, mods: list[str], ops: list[str]) -> None:
    row.dest(ops[0])
    row.sources(ops[1:3], "float")
    row.reads(0, ops[3])
    row.op("FSEL")


def _i2f(row: Row, mods: list[str], ops: list[str]) -> None:
    row.dest(ops[0])
    text = ops[1]
    part = int(text[-1]) if re.search(r"\.B[1-3]$", text) else 2 if text.endswith(".H1") else 0
    row.source(0, re.sub(r"\.(B\d|H\d)$", "", text))
    kind = next((m for m in mods if re.fullmatch(r"[US](8|16|32|64)", m)), "S32")
    low = 2 if "BF16" in mods else 1 if "F16" in mods else 0
    rounding = next((ROUNDINGS[m] for m in mods if m in ROUNDINGS), 0)
    row.op("I2F", int(kind[1:]) // 8, int(kind[0] == "S"), int("F64" in mods), rounding, part, low)


def _f2i(row: Row, mods: list[str], ops: list[str]) -> None:
    row.dest(ops[0])
    row.source(0, ops[1], "float")
    kind = next((m for m in mods if re.fullmatch(r"[US](8|16|32|64)", m)), "S32")
    rounding = next((TO_INTEGER[m] for m in mods if m in TO_INTEGER), 0)
    low = 2 if "BF16" in mods else 1 if "F16" in mods else 0
    row.op("F2I", int(kind[1:]) // 8, int(kind[0] == "S"), int("F64" in mods), rounding, low)


def _f2f(row: Row, mods: list[str], ops: list[str]) -> None:
    row.dest(ops[0])
    kinds = [m for m in mods if m in ("F32", "F16", "BF16", "F64")]
    numbers = {"F32": 0, "F16": 1, "BF16": 2, "F64": 3}
    to, source = kinds
    row.source(0, ops[1], "double" if source == "F64" else "float")
    row.op("F2F", numbers[source], numbers[to])


def _f2fp(row: Row, mods: list[str], ops: list[str]) -> None:
    if "PACK_AB" not in mods or "E4M3" in mods:
        raise row.unknown()
    row.dest(ops[0])
    row.sources(ops[1:3], "float")
    row.op("F2FP", low_kind(mods), int("RELU" in mods))


def _frnd(row: Row, mods: list[str], ops: list[str]) -> None:
    row.dest(ops[0])
    row.source(0, ops[1], "float")
    row.op("FRND", next((TO_INTEGER[m] for m in mods if m in TO_INTEGER), 0))


def _mufu(row: Row, mods: list[str], ops: list[str]) -> None:
    row.dest(ops[0])
    row.source(0, ops[1], "float")
    row.op("MUFU", FUNCTIONS[next(m for m in mods if m in FUNCTIONS)])


def _float(name: str) -> Decoder:
    def decode(row: Row, mods: list[str], ops: list[str]) -> None:
        row.dest(ops[0])
        row.sources(ops[1:4], "float")
        rounding = next((ROUNDINGS[m] for m in mods if m in ROUNDINGS), 0)
        row.op(name, int("FTZ" in mods), int("SAT" in mods), rounding)

    return decode


def _fmnmx(row: Row, mods: list[str], ops: list[str]) -> None:
    row.dest(ops[0])
    row.sources(ops[1:3], "float")
    row.reads(0, ops[3])
    row.op("FMNMX", int("NAN" in mods))


def _fchk(row: Row, mods: list[str], ops: list[str]) -> None:
    row.pred(0, ops[0])
    row.sources(ops[1:3], "float")
    row.op("FCHK")


def _pair(name: str) -> Decoder:
    """Decode arithmetic on pairs of halves; two immediates are one pair, the upper half first."""

    def decode(row: Row, mods: list[str], ops: list[str]) -> None:
        if name == "HADD2" and "F32" in mods:
            row.dest(ops[0])
            row.sources(ops[1:3], "half")
            row.op("HADD2_F32", 0, 2 if "BF16" in mods else 1)
            row["m0"] = 2 if any(m.startswith("BF16") for m in mods) else 1
            return
        row.dest(ops.pop(0))
        texts: list[str] = []
        immediates: list[str] = []
        slot = 0
        for text in ops:
            if is_predicate(text):
                row.reads(0, text)
                continue
            if re.match(r"^-?(0x|\d|INF|\+|QNAN)", text) or text.startswith("-INF"):
                immediates.append(text)
                if len(immediates) == 2:
                    low = low_kind(mods)
                    upper, lower = (_half_bits(row, t, low) for t in immediates)
                    at = FIRST_SOURCE + 5 * slot
                    row.values[at : at + 5] = (IMMEDIATE, 0, 0, upper << 16 | lower, 0)
                    slot += 1
                    immediates = []
                continue
            texts.append(text)
            row.source(slot, text)
            slot += 1
        if immediates:
            raise row.unknown("one immediate of a pair")
        row.op(name, low_kind(mods), int("RELU" in mods))

    return decode


def _half_bits(row: Row, text: str, low: int) -> int:
    if low == 2:
        value = row._immediate(text, "float")
        return value >> 16
    return row._immediate(text, "half")


def _double(name: str) -> Decoder:
    def decode(row: Row, mods: list[str], ops: list[str]) -> None:
        row.dest(ops[0])
        row.sources(ops[1:4], "double")
        row.op(name)

    return decode


def _hmma(row: Row, mods: list[str], ops: list[str]) -> None:
    row.dest(ops[0])
    row.sources(ops[1:4])
    if mods[0] in ("16816", "1688") and "F32" in mods and "TF32" not in mods and "SP" not in mods:
        row.op("HMMA", int("BF16" in mods), 16 if mods[0] == "16816" else 8)
    else:
        row.op("UNKNOWN", 4)


def _hgmma(row: Row, mods: list[str], ops: list[str]) -> None:
    """Decode wgmma, whose sums are not computed. It is 64 x N: N / 2 floats per thread of a warp group."""
    shape = re.search(r"64x(\d+)x(\d+)", row.line.name)
    if shape is None:
        raise row.unknown()
    row.dest(ops[0])
    row.op("UNKNOWN", int(shape[1]) // 2 if "F32" in mods else int(shape[1]) // 4)


DECODERS: dict[str, Decoder] = {
    "FFMA": _float("FFMA"), "FADD": _float("FADD"), "FMUL": _float("FMUL"), "FSEL": _fsel, "FMNMX": _fmnmx,
    "FSETP": _fsetp, "FSET": _fset, "FCHK": _fchk, "MUFU": _mufu, "FRND": _frnd, "I2F": _i2f, "I2FP": _i2f, "F2I": _f2i,
    "F2F": _f2f, "F2FP": _f2fp, "HFMA2": _pair("HFMA2"), "HADD2": _pair("HADD2"), "HMUL2": _pair("HMUL2"),
    "HMNMX2": _pair("HMNMX2"), "HSETP2": _hsetp2, "DADD": _double("DADD"), "DMUL": _double("DMUL"),
    "DFMA": _double("DFMA"), "DSETP": _dsetp, "HMMA": _hmma, "HGMMA": _hgmma,
}  # fmt: skip
