"""Reads what a cubin says about its kernels: code, registers, shared memory, parameters, constant banks."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

INSTRUCTION_BYTES = 16
# attributes of .nv.info: the code of each value, under the name that cuobjdump -elf gives it
PARAM_CBANK, KPARAM_INFO, REGCOUNT = 0x0A, 0x17, 0x2F
SIZED, NOBITS = 0x04, 8


@dataclass(frozen=True)
class Parameter:
    """Says where a kernel's parameter lies, counted from the first parameter."""

    offset: int
    size: int


@dataclass
class Kernel:
    """Describes one entry function of a cubin."""

    name: str
    symbol: int  # its index, by which nvdisasm finds it
    registers: int = 0
    static_shared: int = 0
    parameter_base: int = 0x210
    parameters: list[Parameter] = field(default_factory=list)
    constants: dict[int, bytes] = field(default_factory=dict)  # bank -> content, without bank 0


def kernels(cubin: bytes) -> dict[str, Kernel]:
    """Map the name of every entry function to its kernel."""
    sections = _sections(cubin)
    symbols = _symbols(cubin, sections)
    by_name = {name: content for name, _, content, _ in sections}
    found: dict[str, Kernel] = {}
    for name in by_name:
        if name.startswith(".text."):
            entry = name.removeprefix(".text.")
            index = next(i for i, (symbol, *_) in enumerate(symbols) if symbol == entry)
            found[entry] = Kernel(entry, index)
    for attribute, value in _attributes(by_name.get(".nv.info", b"")):
        if attribute == REGCOUNT:
            symbol, count = struct.unpack_from("<II", value)
            if symbols[symbol][0] in found:
                found[symbols[symbol][0]].registers = count
    for kernel in found.values():
        parameters = {}
        for attribute, value in _attributes(by_name.get(f".nv.info.{kernel.name}", b"")):
            if attribute == KPARAM_INFO:
                _, ordinal, offset, size = struct.unpack_from("<IHHI", value)
                parameters[ordinal] = Parameter(offset, size >> 18)
            elif attribute == PARAM_CBANK:
                kernel.parameter_base = struct.unpack_from("<IHH", value)[1]
        kernel.parameters = [parameters[i] for i in sorted(parameters)]
        for name, kind, content, size in sections:
            if name == f".nv.shared.{kernel.name}":
                kernel.static_shared = size
            bank, _, of = name.removeprefix(".nv.constant").partition(".")
            if name.startswith(".nv.constant") and of in ("", kernel.name) and bank != "0" and kind != NOBITS:
                kernel.constants[int(bank)] = content
    return found


def _sections(cubin: bytes) -> list[tuple[str, int, bytes, int]]:
    """List name, type, content and size of each section."""
    if cubin[:4] != b"\x7fELF":
        raise ValueError("not a cubin: it does not begin as an ELF file")
    (offset,) = struct.unpack_from("<Q", cubin, 0x28)
    size, count, names = struct.unpack_from("<HHH", cubin, 0x3A)
    headers = [struct.unpack_from("<IIQQQQIIQQ", cubin, offset + i * size) for i in range(count)]
    strings = headers[names]
    result = []
    for name, kind, _, _, begin, length, *_ in headers:
        text = _string(cubin, strings[4] + name)
        result.append((text, kind, b"" if kind == NOBITS else cubin[begin : begin + length], length))
    return result


def _symbols(cubin: bytes, sections: list[tuple[str, int, bytes, int]]) -> list[tuple[str, int]]:
    by_name = {name: content for name, _, content, _ in sections}
    table, strings = by_name[".symtab"], by_name[".strtab"]
    result = []
    for at in range(0, len(table), 24):
        name, _, _, _, value, _ = struct.unpack_from("<IBBHQQ", table, at)
        result.append((_string(strings, name), value))
    return result


def _string(content: bytes, begin: int) -> str:
    return content[begin : content.index(b"\0", begin)].decode()


def _attributes(content: bytes) -> list[tuple[int, bytes]]:
    result, at = [], 0
    while at + 4 <= len(content):
        form, attribute, size = struct.unpack_from("<BBH", content, at)
        at += 4
        if form == SIZED:
            result.append((attribute, content[at : at + size]))
            at += size
    return result
