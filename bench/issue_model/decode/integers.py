"""Decodes integer arithmetic, logic, comparisons, selections and moves."""

from __future__ import annotations

import re

from bench.issue_model.decode.row import Decoder, Row, is_predicate, width

COMPARISONS = {"F": 0, "LT": 1, "EQ": 2, "LE": 3, "GT": 4, "NE": 5, "GE": 6, "T": 7}
COMPARISONS |= {f"{name}U": value + 8 for name, value in COMPARISONS.items() if name not in "FT"}
COMPARISONS |= {"NUM": 16, "NAN": 17}
COMBINATIONS = {"AND": 0, "OR": 1, "XOR": 2}
SPECIAL = {
    "SR_TID.X": 0, "SR_TID.Y": 1, "SR_TID.Z": 2, "SR_CTAID.X": 3, "SR_CTAID.Y": 4, "SR_CTAID.Z": 5, "SR_LANEID": 6,
    "SR_CgaCtaId": 7, "SR_SWINHI": 8, "SR_EQMASK": 9, "SR_LTMASK": 10, "SR_LEMASK": 11, "SR_GTMASK": 12,
    "SR_GEMASK": 13, "SR_CgaSize": 14, "SR_VIRTID": 15, "SR_TID": 16,
}  # fmt: skip


def _imad(row: Row, mods: list[str], ops: list[str]) -> None:
    row.dest(ops.pop(0))
    while ops and is_predicate(ops[0]):
        row.pred(0, ops.pop(0))
    row.sources(ops[:3])
    carry = "X" in mods
    if carry:
        row.reads(0, ops[3])
    if "WIDE" in mods or "HI" in mods:
        row.op("IMAD_WIDE" if "WIDE" in mods else "IMAD_HI", int("U32" not in mods), int(carry))
    else:
        row.op("IMAD", int(carry))


def _iadd3(row: Row, mods: list[str], ops: list[str]) -> None:
    row.dest(ops.pop(0))
    for slot in range(2):
        if is_predicate(ops[0]):
            row.pred(slot, ops.pop(0))
    row.sources(ops[:3])
    for slot, text in enumerate(ops[3:5]):
        row.reads(slot, text)
    row.op("IADD3", int("X" in mods))


def _viadd(row: Row, mods: list[str], ops: list[str]) -> None:
    row.dest(ops[0])
    row.sources([ops[1], ops[2], "RZ"])
    row.op("IADD3", 0)


def _lea(row: Row, mods: list[str], ops: list[str]) -> None:
    row.dest(ops.pop(0))
    if is_predicate(ops[0]):
        row.pred(0, ops.pop(0))
    carry = "X" in mods
    if carry:
        row.reads(0, ops.pop())
    shift = int(ops.pop(), 16)
    row.sources(ops)
    if "HI" in mods:
        row.op("LEA_HI", int(carry), shift, int("SX32" in mods))
    else:
        row.op("LEA", int(carry), shift)


def _lop3(row: Row, mods: list[str], ops: list[str]) -> None:
    if is_predicate(ops[0]):
        row.pred(0, ops.pop(0))
    row.dest(ops.pop(0))
    row.sources(ops[:3])
    if len(ops) > 4 and ops[4] != "!PT" and ops[4] != "!UPT":
        row.reads(0, ops[4])
    row.op("LOP3", int(ops[3], 16))


def _plop3(row: Row, mods: list[str], ops: list[str]) -> None:
    row.pred(0, ops[0])
    row.pred(1, ops[1])
    row.sources(ops[2:5])
    row.op("PLOP3", int(ops[5], 16), int(ops[6], 16))


def _shf(row: Row, mods: list[str], ops: list[str]) -> None:
    row.dest(ops[0])
    row.sources(ops[1:4])
    kind = next(m for m in mods if m in ("U32", "S32", "U64", "S64"))
    row.op(
        "SHF",
        int("R" in mods),
        int(kind[1:] == "64"),
        int(kind[0] == "S"),
        int("HI" in mods),
        int("W" in mods),
    )


def _three(name: str, *constants: int) -> Decoder:
    def decode(row: Row, mods: list[str], ops: list[str]) -> None:
        row.dest(ops[0])
        row.sources(ops[1:4])
        row.op(name, *constants)

    return decode


def _isetp(row: Row, mods: list[str], ops: list[str]) -> None:
    row.pred(0, ops[0])
    row.pred(1, ops[1])
    row.sources(ops[2:4])
    row.reads(0, ops[4])
    upper = "EX" in mods
    if upper:
        row.reads(1, ops[5])
    how = next(m for m in mods if m in COMPARISONS)
    combination = next(m for m in mods if m in COMBINATIONS)
    row.op("ISETP", COMPARISONS[how], int("U32" not in mods), COMBINATIONS[combination], int(upper))


def _sel(row: Row, mods: list[str], ops: list[str]) -> None:
    row.dest(ops[0])
    row.sources(ops[1:3])
    row.reads(0, ops[3])
    row.op("SEL")


def _minmax(row: Row, mods: list[str], ops: list[str]) -> None:
    row.dest(ops.pop(0))
    while is_predicate(ops[0]):
        row.pred(0, ops.pop(0))
    row.sources(ops[:2])
    row.reads(0, ops[2])
    row.op("VIMNMX", int("U32" not in mods), int("RELU" in mods))


def _addminmax(row: Row, mods: list[str], ops: list[str]) -> None:
    row.dest(ops.pop(0))
    while is_predicate(ops[0]):
        row.pred(0, ops.pop(0))
    row.sources(ops[:3])
    row.reads(0, ops[3])
    row.op("VIADDMNMX", int("U32" not in mods), int("RELU" in mods))


def _mov(row: Row, mods: list[str], ops: list[str]) -> None:
    row.dest(ops[0])
    row.source(0, ops[1])
    row.op("MOV")


def _one(name: str, immediate: str = "int") -> Decoder:
    def decode(row: Row, mods: list[str], ops: list[str]) -> None:
        row.dest(ops[0])
        row.source(0, ops[1], immediate)
        row.op(name)

    return decode


def _flo(row: Row, mods: list[str], ops: list[str]) -> None:
    row.dest(ops.pop(0))
    while is_predicate(ops[0]):
        row.pred(0, ops.pop(0))
    row.source(0, ops[0])
    row.op("FLO", int("U32" not in mods), int("SH" in mods))


def _sgxt(row: Row, mods: list[str], ops: list[str]) -> None:
    row.dest(ops[0])
    row.sources(ops[1:3])
    row.op("SGXT", int("U32" not in mods))


def _ldc(row: Row, mods: list[str], ops: list[str]) -> None:
    row.dest(ops[0])
    row.source(0, ops[1])
    row["width"] = width(mods)
    row.op("LDC", int("S8" in mods or "S16" in mods))


def _special(row: Row, mods: list[str], ops: list[str]) -> None:
    row.dest(ops[0])
    if ops[1] == "SRZ":
        row.op("ZERO", 1 if "32" in mods or row.line.name.startswith("S2") else 2)
    elif ops[1].startswith("SR_CLOCK") or ops[1].startswith("SR_GLOBALTIMER"):
        row.op("S2R_CLOCK", int(row.line.name.startswith("CS2R") and "32" not in mods))
    else:
        row.op("SREG", SPECIAL[ops[1]])


def _r2ur(row: Row, mods: list[str], ops: list[str]) -> None:
    if is_predicate(ops[0]):
        row.pred(0, ops.pop(0))
    row.dest(ops[0])
    row.source(0, ops[1])
    row.op("R2UR")


def _p2r(row: Row, mods: list[str], ops: list[str]) -> None:
    row.dest(ops[0])
    row.source(0, ops[2])
    row.source(1, ops[3])
    row.op("P2R", first_bit(mods))


def _r2p(row: Row, mods: list[str], ops: list[str]) -> None:
    text = ops[1]
    byte = 8 * int(text[-1]) if re.search(r"\.B[1-3]$", text) else first_bit(mods)
    row.source(0, re.sub(r"\.B\d$", "", text))
    row.source(1, ops[2])
    row.op("R2P", byte)


def first_bit(mods: list[str]) -> int:
    return next((8 * int(m[1]) for m in mods if re.fullmatch(r"B[0-3]", m)), 0)


DECODERS: dict[str, Decoder] = {
    "IMAD": _imad, "IADD3": _iadd3, "VIADD": _viadd, "LEA": _lea, "LOP3": _lop3, "PLOP3": _plop3, "SHF": _shf,
    "PRMT": _three("PRMT"), "ISETP": _isetp, "SEL": _sel, "IABS": _one("IABS"), "VIMNMX": _minmax, "IMNMX": _minmax,
    "VIADDMNMX": _addminmax, "MOV": _mov, "LDC": _ldc, "S2R": _special, "S2UR": _special, "CS2R": _special,
    "POPC": _one("POPC"), "FLO": _flo, "BREV": _one("BREV"), "SGXT": _sgxt, "BMSK": _three("BMSK"), "R2UR": _r2ur,
    "P2R": _p2r, "R2P": _r2p,
}  # fmt: skip
