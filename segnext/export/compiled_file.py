"""AOTInductor's package (.pt2): the network as a compiled library, for CPUs like the one that it was made on."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, cast

import torch

from segnext.atomic import replace_file
from segnext.export.description import KEY, Description
from segnext.export.graph import ExportGraph
from segnext.export.running import Loaded, RunOptions, expect_zip, in_one_line
from segnext.one_line import one_line


def write(graph: ExportGraph, description: Description, path: Path) -> Description:
    """Compile and write a package; this takes minutes and a C++ compiler."""
    with in_one_line("export by torch.export"):
        program = graph.program()
    settings = {"aot_inductor.metadata": {KEY: description.as_text()}}

    def save(temporary: Path) -> None:
        with in_one_line("AOTInductor"), torch.no_grad():
            made = torch._inductor.aoti_compile_and_package(
                program,
                package_path=str(temporary.with_suffix(".pt2")),
                inductor_configs=cast("dict[str, Any]", settings),
            )
        if Path(made) != temporary:
            shutil.move(made, temporary)

    replace_file(path, save)
    return description


def load(path: Path, options: RunOptions) -> Loaded:
    """Open a package; its machine code runs in this process.

    Raises:
        ValueError: it is damaged, not ours, or made for another CPU.
    """
    name = one_line(path, 240)
    options.expect_float32("a compiled package", name)
    expect_zip(path, name)
    with in_one_line(f"{name}: AOTInductor"), path.open("rb") as file:  # by name it takes no capitals in .pt2
        package = torch._inductor.aoti_load_package(cast(Any, file))
        text = cast(Any, package.loader).get_metadata().get(KEY)
    description = Description.from_text(text, name)
    return Loaded(torch.no_grad()(package), description, f"AOTInductor {torch.__version__}")
