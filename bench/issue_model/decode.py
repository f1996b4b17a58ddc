"""Each instruction as a row of numbers: operation, predicates, destinations, sources, address. See executor.h."""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Sequence

import numpy as np

from bench.issue_model.sass import Line, UnknownInstruction

NONE, REGISTER, UNIFORM, PREDICATE, IMMEDIATE, CONSTANT = range(6)
NEGATED, ABSOLUTE, INVERTED, NOT, HIGH, LOW = 1, 2, 4, 8, 16, 32
SOURCES = 6
RZ, URZ = 255, 63
UNIFORM_PREDICATES = 8
NO_ADDRESS, ADDRESS32, ADDRESS64, UNIFORM_BASE = range(4)
SHAREABLE = 256  # a constant's index register from here on is a uniform one

HEAD = (
    "op guard guard_not uniform dest_kind dest pred0 pred1 m0 m1 m2 m3 m4 m5 target mode register scale ubase offset "
    "second_register second_offset second_uniform width"
).split()
FIELDS = {name: i for i, name in enumerate(HEAD)}
FIRST_SOURCE = len(HEAD)
TAIL = {name: FIRST_SOURCE + 5 * SOURCES + i for i, name in enumerate(("in0", "in0_not", "in1", "in1_not"))}
WIDTH = FIRST_SOURCE + 5 * SOURCES + 4

COMPARISONS = {"F": 0, "LT": 1, "EQ": 2, "LE": 3, "GT": 4, "NE": 5, "GE": 6, "T": 7}
COMPARISONS |= {f"{name}U": value + 8 for name, value in COMPARISONS.items() if name not in "FT"}
COMPARISONS |= {"NUM": 16, "NAN": 17}
COMBINATIONS = {"AND": 0, "OR": 1, "XOR": 2}
ROUNDINGS = {"RN": 0, "RM": 1, "RP": 2, "RZ": 3}
TO_INTEGER = {"NEAREST": 0, "FLOOR": 1, "CEIL": 2, "TRUNC": 3}
ATOMICS = {"ADD": 0, "MIN": 1, "MAX": 2, "AND": 3, "OR": 4, "XOR": 5, "EXCH": 6, "CAS": 7}
FUNCTIONS = {"RCP": 0, "RSQ": 1, "EX2": 2, "LG2": 3, "SIN": 4, "COS": 5, "SQRT": 6, "TANH": 7, "RCP64H": 8, "RSQ64H": 9}
SPECIAL = {
    "SR_TID.X": 0, "SR_TID.Y": 1, "SR_TID.Z": 2, "SR_CTAID.X": 3, "SR_CTAID.Y": 4, "SR_CTAID.Z": 5, "SR_LANEID": 6,
    "SR_CgaCtaId": 7, "SR_SWINHI": 8, "SR_EQMASK": 9, "SR_LTMASK": 10, "SR_LEMASK": 11, "SR_GTMASK": 12,
    "SR_GEMASK": 13, "SR_CgaSize": 14, "SR_VIRTID": 15, "SR_TID": 16,
}  # fmt: skip
WIDTHS = {"U8": 1, "S8": 1, "U16": 2, "S16": 2, "64": 8, "128": 16}


class Row:
    """One instruction's numbers."""

    def __init__(self, operations: dict[str, int], line: Line) -> None:
        self.line = line
        self.values = np.zeros(WIDTH, np.int64)
        for name in ("dest", "pred0", "pred1", "register", "ubase", "second_register", "second_uniform"):
            self[name] = -1
        self["scale"] = 1
        for name in ("in0", "in1"):
            self[name] = -1
        self["guard"] = predicate(line.guard)[0]
        self["guard_not"] = line.guard_not
        self.operations = operations

    def __setitem__(self, name: str, value: int) -> None:
        self.values[FIELDS[name] if name in FIELDS else TAIL[name]] = value

    def __getitem__(self, name: str) -> int:
        return int(self.values[FIELDS[name] if name in FIELDS else TAIL[name]])

    def op(self, name: str, *mods: int) -> None:
        self["op"] = self.operations[name]
        for i, value in enumerate(mods):
            self[f"m{i}"] = value

    def unknown(self, what: str = "") -> UnknownInstruction:
        at = f"{self.line.address * 16:#06x}"
        return UnknownInstruction(
            f"issue_model: unknown instruction at {at}: {self.line.text}{' (' + what + ')' if what else ''}; "
            "give it a meaning in bench/issue_model/decode.py and executor.cpp"
        )

    def dest(self, text: str) -> None:
        match = re.fullmatch(r"(U?)R(\d+|Z)(\.64)?", text)
        if match is None:
            raise self.unknown(f"destination {text}")
        self["dest_kind"] = UNIFORM if match[1] else REGISTER
        self["dest"] = (URZ if match[1] else RZ) if match[2] == "Z" else int(match[2])

    def pred(self, slot: int, text: str) -> None:
        self[f"pred{slot}"] = predicate(text)[0]

    def reads(self, slot: int, text: str) -> None:
        number, negated = predicate(text)
        self[f"in{slot}"], self[f"in{slot}_not"] = number, negated

    def source(self, slot: int, text: str, immediate: str = "int") -> None:
        at = FIRST_SOURCE + 5 * slot
        self.values[at : at + 5] = self._operand(text, immediate)

    def sources(self, texts: Sequence[str], immediate: str = "int") -> None:
        for slot, text in enumerate(texts):
            self.source(slot, text, immediate)

    def _operand(self, text: str, immediate: str) -> tuple[int, int, int, int, int]:
        if re.fullmatch(r"!?U?P(\d|T)", text):
            number, negated = predicate(text)
            return PREDICATE, number, NOT if negated else 0, 0, 0
        flags, body = 0, text
        if body.startswith("-") and not re.match(r"-(0x|\d|INF|QNAN|SNAN)", body):
            flags, body = flags | NEGATED, body[1:]
        if body.startswith("~"):
            flags, body = flags | INVERTED, body[1:]
        if body.startswith("|"):
            flags, body = flags | ABSOLUTE, body.replace("|", "")
        if match := re.fullmatch(r"(U?)R(\d+|Z)((?:\.\w+)*)", body):
            for mod in match[3].split(".")[1:]:
                if mod in ("H0_H0", "H1_H1"):
                    flags |= LOW if mod == "H0_H0" else HIGH
                elif mod == "H1":
                    flags |= HIGH
                elif mod not in ("64", "H0", "B0", "H1_H0", "F32", "B1", "B2", "B3", "COL", "ROW"):
                    raise self.unknown(f"operand {text}")
            number = (URZ if match[1] else RZ) if match[2] == "Z" else int(match[2])
            return (UNIFORM if match[1] else REGISTER), number, flags, 0, 0
        if match := re.fullmatch(r"cx?\[(\w+)\]\[(?:(U?R\w+)\+?)?(-?0x[0-9a-f]+)?\]((?:\.\w+)*)", body):
            index = -1
            if match[2] and match[2] not in ("RZ", "URZ"):
                index = int(match[2].lstrip("UR")) + (SHAREABLE if match[2].startswith("U") else 0)
            for mod in match[4].split(".")[1:]:
                if mod in ("H0_H0", "H1_H1"):
                    flags |= LOW if mod == "H0_H0" else HIGH
            if match[1].startswith("U"):
                raise self.unknown("a bindless constant")
            return CONSTANT, index, flags, int(match[3] or "0", 16), int(match[1], 16)
        return IMMEDIATE, 0, flags, self._immediate(body, immediate), 0

    def _immediate(self, text: str, kind: str) -> int:
        if re.fullmatch(r"-?0x[0-9a-f]+", text):
            return int(text, 16) & 0xFFFFFFFF if kind != "double" else int(text, 16)
        special = {"+INF": "inf", "-INF": "-inf", "INF": "inf", "+QNAN": "nan", "-QNAN": "-nan", "QNAN": "nan"}
        try:
            value = float(special.get(text, text))
        except ValueError:
            raise self.unknown(f"operand {text}") from None
        if kind == "double":
            return struct.unpack("<q", struct.pack("<d", value))[0]
        if kind == "half":
            return struct.unpack("<H", struct.pack("<e", value))[0]
        if kind == "int":
            return int(value) & 0xFFFFFFFF
        return struct.unpack("<I", struct.pack("<f", value))[0]

    def address(self, text: str) -> None:
        """[R2.64+UR4+0x10], desc[UR4][R2.64], [R2.X16+UR4]."""
        match = re.fullmatch(r"(?:desc\[(\w+)\])?\[(.*?)\]", text)
        if match is None:
            raise self.unknown(f"address {text}")
        self["mode"] = ADDRESS32
        if match[1]:
            self["mode"] = ADDRESS64
        for term in re.split(r"\+(?=-?[UR0x])", match[2]):
            if found := re.fullmatch(r"R(\d+|Z)(?:\.(64|U32|X4|X8|X16|S32))?", term):
                self["register"] = RZ if found[1] == "Z" else int(found[1])
                if found[2] == "64":
                    self["mode"] = ADDRESS64
                elif found[2] == "U32":
                    self["mode"] = UNIFORM_BASE
                elif found[2]:
                    self["scale"] = int(found[2][1:])
            elif found := re.fullmatch(r"UR(\d+|Z)(\.64)?", term):
                self["ubase"] = URZ if found[1] == "Z" else int(found[1])
                if match[1] and self["register"] == -1:
                    self["mode"] = UNIFORM_BASE
            elif found := re.fullmatch(r"-?0x[0-9a-f]+", term):
                self["offset"] = int(term, 16)
            else:
                raise self.unknown(f"address {text}")
        if match[1] and self["ubase"] >= 0 and self["register"] >= 0 and self["mode"] == ADDRESS64:
            self["mode"] = ADDRESS64  # a 64-bit register and an offset in a uniform one
            if ".64" in match[2].partition("UR")[2]:
                raise self.unknown(f"address {text}")


def predicate(text: str) -> tuple[int, bool]:
    """Number, P0 to P6 and PT, then UP0 to UP6 and UPT, and whether it is negated."""
    negated = text.startswith("!")
    name = text.lstrip("!")
    base = UNIFORM_PREDICATES if name.startswith("U") else 0
    name = name.removeprefix("U").removeprefix("P")
    return base + (7 if name == "T" else int(name)), negated


def is_predicate(text: str) -> bool:
    return re.fullmatch(r"!?U?P(\d|T)", text) is not None


Decoder = Callable[[Row, list[str], list[str]], None]


def program(lines: Sequence[Line], operations: dict[str, int]) -> np.ndarray:
    """A row an instruction."""
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
    row.op("SHF", int("R" in mods), int(kind[1:] == "64"), int(kind[0] == "S"), int("HI" in mods), int("W" in mods))


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


def _fsetp(row: Row, mods: list[str], ops: list[str]) -> None:
    row.pred(0, ops[0])
    row.pred(1, ops[1])
    row.sources(ops[2:4], "float")
    row.reads(0, ops[4])
    row.op("FSETP", _comparison(mods), 0, COMBINATIONS[next(m for m in mods if m in COMBINATIONS)])


def _comparison(mods: list[str]) -> int:
    return COMPARISONS[next(m for m in mods if m in COMPARISONS)]


def _dsetp(row: Row, mods: list[str], ops: list[str]) -> None:
    row.pred(0, ops[0])
    row.pred(1, ops[1])
    row.sources(ops[2:4], "double")
    row.reads(0, ops[4])
    row.op("DSETP", _comparison(mods), 0, COMBINATIONS[next(m for m in mods if m in COMBINATIONS)])


def _fset(row: Row, mods: list[str], ops: list[str]) -> None:
    row.dest(ops[0])
    row.sources(ops[1:3], "float")
    row.reads(0, ops[3])
    row.op("FSET", _comparison(mods), 0, COMBINATIONS[next(m for m in mods if m in COMBINATIONS)], int("BF" in mods))


def _hsetp2(row: Row, mods: list[str], ops: list[str]) -> None:
    row.pred(0, ops[0])
    row.pred(1, ops[1])
    row.sources(ops[2:4], "half")
    row.reads(0, ops[4])
    row.op("HSETP2", _comparison(mods), 0, COMBINATIONS[next(m for m in mods if m in COMBINATIONS)], _low(mods))


def _low(mods: list[str]) -> int:
    """1 for float16, 2 for bfloat16."""
    return 2 if any(m.startswith("BF16") for m in mods) else 1


def _sel(row: Row, mods: list[str], ops: list[str]) -> None:
    row.dest(ops[0])
    row.sources(ops[1:3])
    row.reads(0, ops[3])
    row.op("SEL")


def _fsel(row: Row, mods: list[str], ops: list[str]) -> None:
    row.dest(ops[0])
    row.sources(ops[1:3], "float")
    row.reads(0, ops[3])
    row.op("FSEL")


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
    row["width"] = _width(mods)
    row.op("LDC", int("S8" in mods or "S16" in mods))


def _width(mods: list[str]) -> int:
    return next((WIDTHS[m] for m in mods if m in WIDTHS), 4)


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
    row.op("P2R", _byte(mods))


def _r2p(row: Row, mods: list[str], ops: list[str]) -> None:
    text = ops[1]
    byte = 8 * int(text[-1]) if re.search(r"\.B[1-3]$", text) else _byte(mods)
    row.source(0, re.sub(r"\.B\d$", "", text))
    row.source(1, ops[2])
    row.op("R2P", byte)


def _byte(mods: list[str]) -> int:
    return next((8 * int(m[1]) for m in mods if re.fullmatch(r"B[0-3]", m)), 0)


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
    row.op("F2FP", _low(mods), int("RELU" in mods))


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
    """Arithmetic on pairs of halves; two immediates are one pair, the upper half first."""

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
                    low = _low(mods)
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
        row.op(name, _low(mods), int("RELU" in mods))

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


def _shfl(row: Row, mods: list[str], ops: list[str]) -> None:
    row.pred(0, ops[0])
    row.dest(ops[1])
    row.sources(ops[2:5])
    row.op("SHFL", {"IDX": 0, "UP": 1, "DOWN": 2, "BFLY": 3}[mods[0]])


def _vote(row: Row, mods: list[str], ops: list[str]) -> None:
    if not is_predicate(ops[0]):
        row.dest(ops.pop(0))
    row.pred(0, ops[0])
    row.reads(0, ops[1])
    row.op("VOTE", {"ALL": 0, "ANY": 1, "EQ": 2}[mods[0]])


def _redux(row: Row, mods: list[str], ops: list[str]) -> None:
    row.dest(ops[0])
    row.source(0, ops[1])
    how = next((m for m in mods if m in ("SUM", "MIN", "MAX", "AND", "OR", "XOR")), "OR")
    signed = "S32" in mods
    row.op("REDUX", {"SUM": 0, "MIN": 3 if signed else 1, "MAX": 4 if signed else 2, "AND": 5, "OR": 6, "XOR": 7}[how])


def _load(name: str) -> Decoder:
    def decode(row: Row, mods: list[str], ops: list[str]) -> None:
        while is_predicate(ops[0]):
            row.pred(0, ops.pop(0))
        row.dest(ops[0])
        row.address(ops[1])
        row["width"] = _width(mods)
        # .STRONG is how a spinning barrier reads; "ld.acquire"
        row.op(name, int("S8" in mods or "S16" in mods), int("STRONG" in mods and name == "LDG"))

    return decode


def _store(name: str) -> Decoder:
    def decode(row: Row, mods: list[str], ops: list[str]) -> None:
        row.address(ops[0])
        row.source(0, ops[1])
        row["width"] = _width(mods)
        row.op(name)

    return decode


def _ldgsts(row: Row, mods: list[str], ops: list[str]) -> None:
    shared = Row(row.operations, row.line)
    shared.address(ops[0])
    row.address(ops[1])
    row["second_register"], row["second_offset"] = shared["register"], shared["offset"]
    row["second_uniform"] = shared["ubase"]
    if len(ops) > 2:
        row.reads(0, ops[2])
    row["width"] = _width(mods)
    row.op("LDGSTS")


def _matrix(name: str) -> Decoder:
    def decode(row: Row, mods: list[str], ops: list[str]) -> None:
        if "16" not in mods or not ("M88" in mods or "MT88" in mods):
            raise row.unknown()
        count = next((int(m) for m in mods if m in ("2", "4")), 1)
        if name == "LDSM":
            row.dest(ops[0])
            row.address(ops[1])
        else:
            row.address(ops[0])
            row.source(0, ops[1])
        row.op(name, count, int("MT88" in mods))

    return decode


def _atomic(name: str) -> Decoder:
    def decode(row: Row, mods: list[str], ops: list[str]) -> None:
        if "64" in mods or "128" in mods or "F16x2" in mods:
            raise row.unknown()
        if name != "RED":
            if is_predicate(ops[0]):
                row.pred(0, ops.pop(0))
            row.dest(ops.pop(0))
        row.address(ops[0])
        row.sources(ops[1:3])
        row["width"] = 4
        how = "CAS" if "CAS" in row.line.name else next(m for m in mods if m in ATOMICS)
        number = ATOMICS[how]
        if "S32" in mods and how in ("MIN", "MAX"):
            number += 7
        if "F32" in mods and how == "ADD":
            number = 10
        row.op(name, number)

    return decode


def _hmma(row: Row, mods: list[str], ops: list[str]) -> None:
    row.dest(ops[0])
    row.sources(ops[1:4])
    if mods[0] in ("16816", "1688") and "F32" in mods and "TF32" not in mods and "SP" not in mods:
        row.op("HMMA", int("BF16" in mods), 16 if mods[0] == "16816" else 8)
    else:
        row.op("UNKNOWN", 4)


def _hgmma(row: Row, mods: list[str], ops: list[str]) -> None:
    """wgmma: the sums are not computed. 64 x N: N / 2 floats a thread of a warp group."""
    shape = re.search(r"64x(\d+)x(\d+)", row.line.name)
    if shape is None:
        raise row.unknown()
    row.dest(ops[0])
    row.op("UNKNOWN", int(shape[1]) // 2 if "F32" in mods else int(shape[1]) // 4)


def _nothing(row: Row, mods: list[str], ops: list[str]) -> None:
    row.op("NOP")


def _bra(row: Row, mods: list[str], ops: list[str]) -> None:
    row["target"] = int(ops[-1].removeprefix("@"))
    if "DIV" in mods:
        row.source(0, ops[0].removeprefix("~"))
        row.op("BRA_DIV")
        return
    if len(ops) > 1 and is_predicate(ops[0]):
        row.reads(0, ops[0])
    elif len(ops) > 1:
        raise row.unknown()
    row.op("BRA")


def _call(row: Row, mods: list[str], ops: list[str]) -> None:
    if "REL" not in mods:
        raise row.unknown()
    row["target"] = int(ops[-1].removeprefix("@"))
    row.op("CALL")


def _ret(row: Row, mods: list[str], ops: list[str]) -> None:
    if "REL" not in mods:
        raise row.unknown()
    row.source(0, ops[0])
    row["target"] = int(ops[1].removeprefix("@"))
    row.op("RET")


def _brx(row: Row, mods: list[str], ops: list[str]) -> None:
    match = re.match(r"(R\d+)\s*(-?0x[0-9a-f]+)?", ops[0])
    if match is None:
        raise row.unknown()
    row.source(0, match[1])
    row["target"] = row.line.address + 1 + int(match[2] or "0", 16) // 16
    row.op("BRX")


def _barrier(name: str) -> Decoder:
    def decode(row: Row, mods: list[str], ops: list[str]) -> None:
        if name == "BREAK" and len(ops) > 1:
            row.reads(0, ops.pop(0))
        row.op(name, int(ops[0].removeprefix("B")))

    return decode


def _warpsync(row: Row, mods: list[str], ops: list[str]) -> None:
    if "ALL" not in mods and ops:
        row.source(0, ops[0])
    row.op("WARPSYNC")


def _bar(row: Row, mods: list[str], ops: list[str]) -> None:
    arrives = "ARV" in mods
    predicates = [text for text in ops if is_predicate(text)]
    plain = [text for text in ops if not is_predicate(text)]
    row.source(0, plain[0])
    if len(plain) > 1:
        row.source(1, plain[1])
    if predicates:
        row.reads(0, predicates[0])
    row.op("BAR", int(arrives))


def _b2r(row: Row, mods: list[str], ops: list[str]) -> None:
    row.dest(ops[0])
    if len(ops) > 1:
        row.pred(0, ops[1])
    row.op("B2R")


def _bmov(row: Row, mods: list[str], ops: list[str]) -> None:
    if ops[0].startswith("B"):
        row.source(0, ops[1])
        row.op("BMOV_IN", int(ops[0][1:]))
    else:
        row.dest(ops[0])
        row.op("BMOV_OUT", int(ops[1][1:]))


def _match(row: Row, mods: list[str], ops: list[str]) -> None:
    if mods and mods[0] != "ANY":
        raise row.unknown()
    row.dest(ops[0])
    row.source(0, ops[1])
    row.op("MATCH")


def _elect(row: Row, mods: list[str], ops: list[str]) -> None:
    row.pred(0, ops[0])
    row.dest(ops[1])
    row.op("ELECT")


DECODERS: dict[str, Decoder] = {
    "IMAD": _imad, "IADD3": _iadd3, "VIADD": _viadd, "LEA": _lea, "LOP3": _lop3, "PLOP3": _plop3, "SHF": _shf,
    "PRMT": _three("PRMT"), "ISETP": _isetp, "SEL": _sel, "FSEL": _fsel, "IABS": _one("IABS"), "VIMNMX": _minmax,
    "IMNMX": _minmax, "VIADDMNMX": _addminmax, "MOV": _mov, "LDC": _ldc, "S2R": _special, "S2UR": _special,
    "CS2R": _special, "POPC": _one("POPC"), "FLO": _flo, "BREV": _one("BREV"), "SGXT": _sgxt, "BMSK": _three("BMSK"),
    "R2UR": _r2ur, "P2R": _p2r, "R2P": _r2p, "I2F": _i2f, "I2FP": _i2f, "F2I": _f2i, "F2F": _f2f, "F2FP": _f2fp,
    "FRND": _frnd, "MUFU": _mufu, "FFMA": _float("FFMA"), "FADD": _float("FADD"), "FMUL": _float("FMUL"),
    "FMNMX": _fmnmx, "FSETP": _fsetp, "FSET": _fset, "FCHK": _fchk, "HFMA2": _pair("HFMA2"), "HADD2": _pair("HADD2"),
    "HMUL2": _pair("HMUL2"), "HMNMX2": _pair("HMNMX2"), "HSETP2": _hsetp2, "DADD": _double("DADD"),
    "DMUL": _double("DMUL"), "DFMA": _double("DFMA"), "DSETP": _dsetp, "SHFL": _shfl, "VOTE": _vote, "VOTEU": _vote,
    "REDUX": _redux, "LDG": _load("LDG"), "LD": _load("LDG"), "LDS": _load("LDS"), "STG": _store("STG"),
    "ST": _store("STG"), "STS": _store("STS"), "LDL": _load("LDL"), "STL": _store("STL"), "LDGSTS": _ldgsts, "LDSM": _matrix("LDSM"), "STSM": _matrix("STSM"),
    "ATOMG": _atomic("ATOM"), "ATOM": _atomic("ATOM"), "RED": _atomic("RED"), "ATOMS": _atomic("ATOMS"),
    "HMMA": _hmma, "HGMMA": _hgmma, "BRA": _bra, "CALL": _call, "RET": _ret, "BRX": _brx, "BSSY": _barrier("BSSY"),
    "BSYNC": _barrier("BSYNC"), "BREAK": _barrier("BREAK"), "WARPSYNC": _warpsync, "BAR": _bar, "B2R": _b2r,
    "BMOV": _bmov, "MATCH": _match, "ELECT": _elect,
    **dict.fromkeys(
        ("NOP", "YIELD", "NANOSLEEP", "ERRBAR", "CGAERRBAR", "CCTL", "MEMBAR", "FENCE", "DEPBAR", "LDGDEPBAR",
         "WARPGROUP", "UCGABAR_ARV", "UCGABAR_WAIT", "ENDCOLLECTIVE", "PREEXIT", "ACQBULK", "CCTLL", "LEPC",
         "WARPGROUPSET", "UGETNEXTWORKID"),
        _nothing,
    ),
}  # fmt: skip


def _exit(row: Row, mods: list[str], ops: list[str]) -> None:
    row.op("EXIT")


DECODERS["EXIT"] = _exit
