"""Prints what the installed package mmsegmentation says of its data sets, as JSON: ``python mmseg_facts.py``.

It runs in mmsegmentation's own environment and needs only the standard library. The facts are read from the source
files: to import them would need the compiled operators of mmcv.
"""

from __future__ import annotations

import ast
import json
from importlib.metadata import distribution
from typing import Any

# name of our data set: file and class
CLASSES = {
    "ade20k": ("ade", "ADE20KDataset"),
    "cityscapes": ("cityscapes", "CityscapesDataset"),
    "coco_stuff": ("coco_stuff", "COCOStuffDataset"),
    "isaid": ("isaid", "iSAIDDataset"),
    "pascal_context": ("pascal_context", "PascalContextDataset59"),
    "pascal_context60": ("pascal_context", "PascalContextDataset"),
    "voc2012": ("voc", "PascalVOCDataset"),
    "voc2012_aug": ("voc", "PascalVOCDataset"),
}
# name of our data set: configuration that says where its files are, and the names of its parts
CONFIGS = {
    "ade20k": ("ade20k", "train_dataloader", "val_dataloader"),
    "cityscapes": ("cityscapes", "train_dataloader", "val_dataloader"),
    "coco_stuff": ("coco-stuff164k", "train_dataloader", "val_dataloader"),
    "isaid": ("isaid", "train_dataloader", "val_dataloader"),
    "pascal_context": ("pascal_context_59", "train_dataloader", "val_dataloader"),
    "pascal_context60": ("pascal_context", "train_dataloader", "val_dataloader"),
    "voc2012": ("pascal_voc12", "train_dataloader", "val_dataloader"),
    "voc2012_aug": ("pascal_voc12_aug", "dataset_aug", "val_dataloader"),
}
# tables of the converters that prepare a data set
TABLES = {"coco_stuff164k": "clsID_to_trID", "isaid": "iSAID_palette"}


def parsed(path: str) -> ast.Module:
    """Return the syntax of a file of the package."""
    with open(str(distribution("mmsegmentation").locate_file(f"mmseg/{path}")), encoding="utf-8") as file:
        return ast.parse(file.read())


def value(node: ast.expr) -> Any:
    """Return a literal, also one written as dict(a=1); None for what has to be computed."""
    if isinstance(node, ast.Call):
        return {word.arg: value(word.value) for word in node.keywords}
    try:
        return ast.literal_eval(node)
    except ValueError:
        return None


def assigned(body: list[ast.stmt]) -> dict[str, Any]:
    """Return the values of names assigned in a file or a class."""
    return {
        target.id: value(statement.value)
        for statement in body
        if isinstance(statement, ast.Assign)
        for target in statement.targets
        if isinstance(target, ast.Name)
    }


def data_set(file: str, name: str) -> dict[str, Any]:
    """Return the classes, the palette and the defaults of the constructor."""
    for found in parsed(f"datasets/{file}.py").body:
        if isinstance(found, ast.ClassDef) and found.name == name:
            facts: dict[str, Any] = assigned(found.body)["METAINFO"]
            for function in found.body:
                if isinstance(function, ast.FunctionDef) and function.name == "__init__":
                    defaults = function.args.defaults
                    words = function.args.args[-len(defaults) :]
                    facts |= {word.arg: value(node) for word, node in zip(words, defaults, strict=True)}
            return facts
    raise KeyError(name)


def places(file: str, *parts: str) -> list[dict[str, str]]:
    """Return where a configuration's images, label maps and list are, per part."""
    found = assigned(parsed(f".mim/configs/_base_/datasets/{file}.py").body)
    data_sets = [found[part].get("dataset", found[part]) for part in parts]
    return [{**part["data_prefix"], "ann_file": part.get("ann_file", "")} for part in data_sets]


def main() -> None:
    """Print all facts."""
    tables = {
        file: list(assigned(parsed(f".mim/tools/dataset_converters/{file}.py").body)[name].items())
        for file, name in TABLES.items()
    }
    sets = {name: data_set(*where) for name, where in CLASSES.items()}
    found = {name: places(*where) for name, where in CONFIGS.items()}
    print(json.dumps({"sets": sets, "places": found, "tables": tables}))


if __name__ == "__main__":
    main()
