"""Decodes branches, barriers, and what the lanes of a warp do together."""

from __future__ import annotations

import re

from bench.issue_model.decode.row import Decoder, Row, is_predicate

# These wait, order or hint, and change nothing that is computed here.
NOTHING = """
    NOP YIELD NANOSLEEP ERRBAR CGAERRBAR CCTL CCTLL MEMBAR FENCE DEPBAR LDGDEPBAR WARPGROUP WARPGROUPSET UCGABAR_ARV
    UCGABAR_WAIT ENDCOLLECTIVE PREEXIT ACQBULK LEPC UGETNEXTWORKID
"""


def _nothing(row: Row, mods: list[str], ops: list[str]) -> None:
    row.op("NOP")


def _exit(row: Row, mods: list[str], ops: list[str]) -> None:
    row.op("EXIT")


def _bpt(row: Row, mods: list[str], ops: list[str]) -> None:
    if "TRAP" not in mods:
        raise row.unknown()
    row.op("TRAP")


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
    row.op(
        "REDUX",
        {"SUM": 0, "MIN": 3 if signed else 1, "MAX": 4 if signed else 2, "AND": 5, "OR": 6, "XOR": 7}[how],
    )


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
    "BRA": _bra, "CALL": _call, "RET": _ret, "BRX": _brx, "EXIT": _exit, "BPT": _bpt, "BSSY": _barrier("BSSY"),
    "BSYNC": _barrier("BSYNC"), "BREAK": _barrier("BREAK"), "WARPSYNC": _warpsync, "BAR": _bar, "B2R": _b2r,
    "BMOV": _bmov, "SHFL": _shfl, "VOTE": _vote, "VOTEU": _vote, "REDUX": _redux, "MATCH": _match, "ELECT": _elect,
    **dict.fromkeys(NOTHING.split(), _nothing),
}  # fmt: skip
