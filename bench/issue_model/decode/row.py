"""Describes an instruction as a row of numbers: operation, predicates, destinations, sources, address.

See machine/state.h.
"""

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


FIELDS_IN_ORDER = """
    op guard guard_not uniform dest_kind dest pred0 pred1 m0 m1 m2 m3 m4 m5 target mode register scale ubase offset
    second_register second_offset second_uniform width
"""
FIELDS = {name: i for i, name in enumerate(FIELDS_IN_ORDER.split())}
FIRST_SOURCE = len(FIELDS)
TAIL = {name: FIRST_SOURCE + 5 * SOURCES + i for i, name in enumerate(("in0", "in0_not", "in1", "in1_not"))}
WIDTH = FIRST_SOURCE + 5 * SOURCES + 4

WIDTHS = {"U8": 1, "S8": 1, "U16": 2, "S16": 2, "64": 8, "128": 16}


class Row:
    """Holds one instruction's numbers."""

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
            "give it a meaning in bench/issue_model/decode/ and machine/"
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
        special = {
            "+INF": "inf",
            "-INF": "-inf",
            "INF": "inf",
            "+QNAN": "nan",
            "-QNAN": "-nan",
            "QNAN": "nan",
        }
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
        """Read an address such as [R2.64+UR4+0x10], desc[UR4][R2.64] or [R2.X16+UR4]."""
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
    """Return a predicate's number (P0 to P6 and PT, then UP0 to UP6 and UPT) and whether it is negated."""
    negated = text.startswith("!")
    name = text.lstrip("!")
    base = UNIFORM_PREDICATES if name.startswith("U") else 0
    name = name.removeprefix("U").removeprefix("P")
    return base + (7 if name == "T" else int(name)), negated


def is_predicate(text: str) -> bool:
    return re.fullmatch(r"!?U?P(\d|T)", text) is not None


def width(mods: list[str]) -> int:
    """Return the bytes of an access, by its modifiers."""
    return next((WIDTHS[m] for m in mods if m in WIDTHS), 4)


# row, modifiers, operands
Decoder = Callable[[Row, list[str], list[str]], None]
