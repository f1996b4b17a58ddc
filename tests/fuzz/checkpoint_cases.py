"""Draws checkpoints: good ones, damaged ones, and ones whose pickles, tensors or texts are not what they should be."""

from __future__ import annotations

import hashlib
import io
import json
import pickle
import struct
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save as safetensors_bytes
from torch import Tensor

from segnext.models import SegNeXt, build, dialects
from segnext.weights.identify import overrides_of
from tests.fuzz.checkpoint_child import SHAPE
from tests.fuzz.checkpoint_damage import change_bytes, change_opcodes
from tests.weights import foreign

Random = np.random.Generator
CLASSES = 3


@dataclass(frozen=True)
class Case:
    """One file.

    Attributes:
        what: how it was made, for the report.
        data: its bytes.
        own: it is a file of ours, with a configuration.
        outcome: "loads", "refused", or "either".
        reader: reads the bytes independently.
        original: bytes of the good file that was changed; what comes out may also be what is in it.
    """

    what: str
    data: bytes
    own: bool
    outcome: str
    reader: Callable[[bytes], dict[str, Any]]
    original: bytes | None = None


@cache
def model() -> SegNeXt:
    """Return the model whose checkpoints are drawn."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = build("segnext_t", **SHAPE, decoder_channels=32, num_classes=CLASSES, rank=4)
    assert isinstance(made, SegNeXt)
    return made


def native() -> dict[str, Tensor]:
    """Return its tensors under our names."""
    return {name: tensor.detach().contiguous() for name, tensor in model().state_dict().items()}


def official() -> dict[str, Tensor]:
    """Return its tensors under the official names."""
    return dialects.to_official(native())


# Writers: tensors to bytes. Readers: bytes to tensors, with nothing of the package.


def write_torch(tensors: dict[str, Any], meta: Any = None) -> bytes:
    """Write what torch.save writes today."""
    return _saved({"meta": meta or {}, "state_dict": tensors}, True)


def write_legacy(tensors: dict[str, Any], meta: Any = None) -> bytes:
    """Write what torch.save wrote before PyTorch 1.6."""
    return _saved({"meta": meta or {}, "state_dict": tensors}, False)


def _saved(value: Any, zipped: bool) -> bytes:
    file = io.BytesIO()
    torch.save(value, file, _use_new_zipfile_serialization=zipped)
    return file.getvalue()


def write_ours(tensors: dict[str, Any], config: str | None = None) -> bytes:
    """Write a safetensors file with our configuration."""
    return safetensors_bytes(tensors, {"segnext": config_text() if config is None else config})


def write_safetensors(tensors: dict[str, Any], meta: Any = None) -> bytes:
    """Write a safetensors file of foreign names."""
    return safetensors_bytes(tensors)


def write_paddle(tensors: dict[str, Any], meta: Any = None) -> bytes:
    """Write what Paddle writes."""
    return pickle.dumps({**_arrays(foreign.as_paddleseg, tensors), "StructuredToParameterName@@": {}}, 2)


def write_jittor(tensors: dict[str, Any], meta: Any = None) -> bytes:
    """Write what Jittor writes."""
    data = pickle.dumps({"meta": meta or {}, "model": _arrays(foreign.as_jseg, tensors)}, 4)
    return data + hashlib.sha1(data).digest() + b"HCAJSLHD"


def _arrays(rename: Callable[..., dict[str, np.ndarray]], tensors: dict[str, Any]) -> dict[str, np.ndarray]:
    return rename({name: torch.as_tensor(tensor) for name, tensor in tensors.items()})


def config_text() -> str:
    """Return our configuration of the model."""
    metadata = {
        "classes": ["road", "car", "sky"],
        "palette": [[1, 2, 3], [4, 5, 6], [7, 8, 9]],
        "preprocessing": {"mean": [1.0, 2.0, 3.0], "std": [4.0, 5.0, 6.0]},
    }
    return json.dumps(
        {"format": 1, "architecture": "segnext_t", "model": overrides_of(model().config), **metadata}
    )


def read_torch(data: bytes) -> dict[str, Any]:
    """Read as PyTorch does, without executing anything."""
    return dict(torch.load(io.BytesIO(data), weights_only=True)["state_dict"])


def read_safetensors(data: bytes) -> dict[str, Any]:
    """Read by the description of the format."""
    length = struct.unpack("<Q", data[:8])[0]
    header, values, found = json.loads(data[8 : 8 + length]), data[8 + length :], {}
    dtypes = {
        "F32": torch.float32,
        "F64": torch.float64,
        "I64": torch.int64,
        "F16": torch.float16,
        "BF16": torch.bfloat16,
        "I32": torch.int32,
    }
    for name, entry in header.items():
        if name != "__metadata__":
            begin, end = entry["data_offsets"]
            dtype, raw = dtypes[entry["dtype"]], bytearray(values[begin:end])
            flat = torch.frombuffer(raw, dtype=dtype) if raw else torch.empty(0, dtype=dtype)
            found[name] = flat.reshape(entry["shape"])
    return found


class _NumpyOnly(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if module.startswith("numpy") and name in (
            "_reconstruct",
            "ndarray",
            "dtype",
            "_frombuffer",
            "scalar",
        ):
            return super().find_class(module, name)
        if (module, name) in (("_codecs", "encode"), ("builtins", "bytes"), ("__builtin__", "bytes")):
            return super().find_class(module, name)
        raise pickle.UnpicklingError(name)


def read_pickle(data: bytes) -> dict[str, Any]:
    """Read as numpy does, and call nothing else."""
    loaded = _NumpyOnly(io.BytesIO(data), encoding="latin1").load()
    inner = loaded.get("model", loaded)
    return {str(name): value for name, value in inner.items() if isinstance(value, np.ndarray)}


CONTAINERS: dict[
    str, tuple[Callable[..., bytes], Callable[[bytes], dict[str, Any]], Callable[[], dict[str, Tensor]]]
] = {
    "torch": (write_torch, read_torch, official),
    "legacy": (write_legacy, read_torch, official),
    "ours": (write_ours, read_safetensors, native),
    "safetensors": (write_safetensors, read_safetensors, official),
    "paddle": (write_paddle, read_pickle, official),
    "jittor": (write_jittor, read_pickle, official),
}


def draw(random: Random, canary: Path) -> Case:
    """Draw one file; whatever executes something in it makes the file `canary`."""
    container = str(random.choice(list(CONTAINERS)))
    write, reader, tensors = CONTAINERS[container]
    own = container == "ours"
    kind = str(
        random.choice(
            ["good", "bytes", "bytes", "bytes", "tensor", "tensor", "names", "opcodes", "opcodes", "text"]
        )
    )
    if kind == "tensor":
        what, changed, outcome = _change_tensor(random, tensors(), container)
        return Case(f"{container}, {what}", write(changed), own, outcome, reader)
    if kind == "names":
        what, changed = _change_names(random, tensors())
        return Case(f"{container}, {what}", write(changed), own, "refused", reader)
    if kind == "opcodes" and container not in ("ours", "safetensors"):
        good = write(tensors())
        what, data = change_opcodes(random, good, container, canary)
        return Case(f"{container}, {what}", data, own, "either", reader, good)
    if kind == "text" and own:
        what, config = _change_text(random, config_text())
        return Case(f"{container}, {what}", write_ours(tensors(), config), own, "either", reader)
    if kind == "text" and container in ("torch", "legacy", "jittor"):
        what, meta = _odd_meta(random)
        return Case(f"{container}, {what}", write(tensors(), meta), own, "loads", reader)
    data = write(tensors())
    if kind == "good":
        return Case(f"{container}, good", data, own, "loads", reader)
    what, changed_data = change_bytes(random, data)
    return Case(f"{container}, {what}", changed_data, own, "either", reader, data)


def _change_tensor(
    random: Random, tensors: dict[str, Tensor], container: str
) -> tuple[str, dict[str, Tensor], str]:
    """Change one tensor that is a weight: its dtype, its shape or its values."""
    weights = [name for name in tensors if not name.endswith("num_batches_tracked") and "bases" not in name]
    name = str(random.choice(weights))
    tensor = tensors[name].clone()
    kinds: dict[str, tuple[Callable[[], Tensor], str]] = {
        "int32": (lambda: tensor.to(torch.int32), "refused"),
        "int64": (lambda: tensor.to(torch.int64), "refused"),
        "uint8": (lambda: tensor.to(torch.uint8), "refused"),
        "bool": (lambda: tensor > 0, "refused"),
        "complex": (lambda: tensor.to(torch.complex64), "refused"),
        "float16": (lambda: tensor.half(), "loads"),
        "float64": (lambda: tensor.double(), "loads"),
        "nan": (lambda: _poisoned(tensor, float("nan")), "refused"),
        "inf": (lambda: _poisoned(tensor, float("-inf")), "refused"),
        "no axis": (lambda: tensor.reshape(-1)[0].clone(), "refused"),
        "one axis more": (lambda: tensor[None].clone(), "either"),  # a layer scale may have several
        "longer": (lambda: torch.cat([tensor, tensor]), "refused"),
        "empty": (lambda: tensor[:0].clone(), "refused"),
    }
    if container in ("torch", "legacy"):
        kinds |= {
            "sparse": (lambda: tensor.to_sparse(), "refused"),
            "expanded": (lambda: tensor.reshape(-1)[:1].expand(10**9), "refused"),
            "meta": (lambda: tensor.to("meta"), "refused"),
            "conjugated": (lambda: tensor.to(torch.complex64).conj(), "refused"),
            "turned": (lambda: tensor.transpose(0, -1).contiguous().transpose(0, -1), "loads"),
            "parameter": (lambda: torch.nn.Parameter(tensor), "loads"),
            "bfloat16": (lambda: tensor.bfloat16(), "loads"),
        }
    kind = str(random.choice(list(kinds)))
    if container in ("paddle", "jittor") and kind == "no axis":
        kind = "longer"  # their names are made from arrays with axes
    make, outcome = kinds[kind]
    return f"{name} {kind}", {**tensors, name: make()}, outcome


def _poisoned(tensor: Tensor, value: float) -> Tensor:
    tensor.view(-1)[-1] = value
    return tensor


def _change_names(random: Random, tensors: dict[str, Tensor]) -> tuple[str, dict[str, Tensor]]:
    needed = [name for name in tensors if not name.endswith(dialects.OPTIONAL)]
    name = str(random.choice(needed))
    odd = [
        "\n" * 40,
        "a" * 5000,
        "\x1b[2J",
        "",
        name + ".weight",
        "module." + name[::-1],
        "x\0y",
        "\u202eabc",
    ]
    kind = str(random.choice(["missing", "renamed", "all", "none"]))
    if kind == "missing":
        return f"without {name}", {key: value for key, value in tensors.items() if key != name}
    if kind == "none":
        return "no tensors", {}
    new = str(random.choice(np.array(odd, dtype=object)))
    if kind == "all":
        return "other names", {f"layer{index}{new}": value for index, value in enumerate(tensors.values())}
    return f"{name} renamed", {(new if key == name else key): value for key, value in tensors.items()}


def _odd_values(random: Random) -> Any:
    deep: Any = 0
    for _ in range(50):
        deep = [deep]
    odd = [
        *(
            None,
            True,
            -1,
            0,
            2**31,
            2**63,
            10**30,
            -0.0,
            float("nan"),
            float("inf"),
            "",
            "3",
            "a\nb",
            "\x1b[2J",
            "x" * 9999,
        ),
        *(
            [],
            {},
            [1],
            [[1, 2]],
            [[300, 0, 0]] * 3,
            ["a"] * 3,
            ["a", "b\nc", "d"],
            {"mean": "x"},
            {"std": [0]},
            deep,
        ),
        *(
            [2**31] * 4,
            [8, 16, 24, 10**6],
            [10**6, 1, 1, 1],
            [7] * 10_000,
            65_536,
            65_568,
            1,
            2,
            "segnext_b",
            "mscan_t",
        ),
    ]
    return odd[int(random.integers(len(odd)))]


def _change_text(random: Random, config: str) -> tuple[str, str]:
    kind = str(random.choice(["bytes", "value", "value", "value", "deep"]))
    if kind == "deep":
        return "a deep config", "[" * int(random.integers(10, 200_000))
    if kind == "bytes":
        letters = list(config)
        for position in random.integers(0, len(letters), 3):
            letters[position] = chr(int(random.integers(32, 127)))
        return "letters of the config", "".join(letters)
    parsed = json.loads(config)
    place = parsed if random.random() < 0.5 else parsed["model"]
    key = str(
        random.choice([*place, "drop_path", "strips", "expansions", "depths", "channels", "other\nkey"])
    )
    place[key] = _odd_values(random)
    return f"config {key!r} = {str(place[key])[:40]!r}", json.dumps(parsed)


def _odd_meta(random: Random) -> tuple[str, Any]:
    doubled: Any = ["a"]
    for _ in range(40):
        doubled = [doubled, doubled]  # 2^40 names, if they are counted
    odd = [_odd_values(random), doubled, [doubled] * CLASSES, [[float("inf")] * 3] * CLASSES]
    key = str(random.choice(["CLASSES", "PALETTE", "dataset_meta", "config", "cfg", "epoch"]))
    value = _odd_text(random) if key in ("config", "cfg") else odd[int(random.integers(len(odd)))]
    return f"meta {key}", {key: value, "dataset_meta": {"classes": odd[int(random.integers(len(odd)))]}}


def _odd_text(random: Random) -> Any:
    """Return a configuration as mmengine writes it, of which something is odd."""
    doubled = "a0 = [1]\n" + "".join(f"a{index} = [a{index - 1}, a{index - 1}]\n" for index in range(1, 40))
    kind = str(random.choice(["(" * 5000, "-" * 200_000 + "1", "1" + "+1" * 200_000, "x", "[" * 100]))
    model = (
        "model = dict(decode_head=dict(ham_kwargs=dict(MD_R={}, MD_S=1), align_corners={}), backbone=dict())"
    )
    values = ["16", "a39", "'x' * 9", "None", "2**31", "open('x')", "-1", "1e400", "[1, 2]", '"a\\nb"']
    head = model.format(*(values[int(random.integers(len(values)))] for _ in range(2)))
    return [kind, doubled + head, head, head + "\0", _odd_values(random)][int(random.integers(5))]
