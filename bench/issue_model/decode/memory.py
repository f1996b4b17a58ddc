"""Decodes loads, stores, asynchronous copies, matrices of a warp, and atomic operations."""

from __future__ import annotations

from bench.issue_model.decode.row import Decoder, Row, is_predicate, width

ATOMICS = {"ADD": 0, "MIN": 1, "MAX": 2, "AND": 3, "OR": 4, "XOR": 5, "EXCH": 6, "CAS": 7}


def _load(name: str) -> Decoder:
    def decode(row: Row, mods: list[str], ops: list[str]) -> None:
        while is_predicate(ops[0]):
            row.pred(0, ops.pop(0))
        row.dest(ops[0])
        row.address(ops[1])
        row["width"] = width(mods)
        # .STRONG (ld.acquire) is how a spinning barrier reads
        row.op(name, int("S8" in mods or "S16" in mods), int("STRONG" in mods and name == "LDG"))

    return decode


def _store(name: str) -> Decoder:
    def decode(row: Row, mods: list[str], ops: list[str]) -> None:
        row.address(ops[0])
        row.source(0, ops[1])
        row["width"] = width(mods)
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
    row["width"] = width(mods)
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


DECODERS: dict[str, Decoder] = {
    "LDG": _load("LDG"), "LD": _load("LDG"), "LDS": _load("LDS"), "LDL": _load("LDL"), "STG": _store("STG"),
    "ST": _store("STG"), "STS": _store("STS"), "STL": _store("STL"), "LDGSTS": _ldgsts, "LDSM": _matrix("LDSM"),
    "STSM": _matrix("STSM"), "ATOMG": _atomic("ATOM"), "ATOM": _atomic("ATOM"), "RED": _atomic("RED"),
    "ATOMS": _atomic("ATOMS"),
}  # fmt: skip
