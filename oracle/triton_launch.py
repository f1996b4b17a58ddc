"""Describes a launch of a Triton kernel, and compiles it for a GPU that is not there, from tensors without data.

Import this where Triton is installed, in a process without TRITON_INTERPRET.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from segnext_kernels.triton import tuning

POINTERS = {
    torch.float32: "fp32", torch.float16: "fp16", torch.bfloat16: "bf16", torch.uint8: "u8", torch.int32: "i32",
    torch.int64: "i64", torch.bool: "i1",
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class Launch:
    """Describes one kernel as `segnext_kernels.triton.launch.start` would start it.

    Attributes:
        function: Triton's function.
        args: its arguments in order, tensors and numbers.
        config: tile sizes, warps and stages.
        constants: further compile-time arguments by name.
    """

    function: Any
    args: tuple[Any, ...]
    config: tuning.Config
    constants: Mapping[str, Any]

    @property
    def label(self) -> str:
        """Name the kernel, its constants and its configuration."""
        flags = [f"{key}={value}" for key, value in self.constants.items()]
        sizes = [f"{key}={value}" for key, value in self.config.as_json().items()]
        return " ".join([self.function.fn.__name__.strip("_"), *flags, *sizes])

    def source(self) -> ASTSource:
        """Specialise the arguments as Triton's own launcher does."""
        names = self.function.arg_names
        signature: dict[str, str] = dict.fromkeys(names, "constexpr")
        constants = {**dict(self.config.sizes), **self.constants}
        attributes = {}
        for index, (name, value) in enumerate(zip(names, self.args, strict=False)):
            signature[name], is_aligned = _type_of(value)
            if signature[name] == "constexpr":
                constants[name] = value
            elif is_aligned:
                attributes[(index,)] = [["tt.divisibility", 16]]
        return ASTSource(self.function, signature, constants, attributes)

    def compiled(self, sm: int) -> Any:
        """Compile for an architecture, such as 90; the result has ``asm`` and ``metadata``."""
        options = self.config.options((sm // 10, sm % 10))
        return triton.compile(self.source(), target=GPUTarget("cuda", sm, 32), options=options)

    def passed(self) -> Iterator[Any]:
        """Yield the arguments that the machine code takes: those that are no constants."""
        return (value for value in self.args if _type_of(value)[0] != "constexpr")


def _type_of(value: Any) -> tuple[str, bool]:
    """Return Triton's name of an argument's type, and whether the argument is a multiple of 16."""
    if isinstance(value, torch.Tensor):
        return f"*{POINTERS[value.dtype]}", True
    if isinstance(value, float):
        return "fp32", False
    if value is None or isinstance(value, bool) or value == 1:
        return ("constexpr", False) if not isinstance(value, bool) else ("u1", False)
    return "i32" if -(2**31) <= value < 2**31 else "i64", value % 16 == 0
