"""The weights that others have published, by name: what is known about each, from ``published.yaml``.

Importing this module needs no torch.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from segnext.models.registry import SIZES
from segnext.one_line import one_line
from segnext.safe_yaml import read_yaml

FILE = Path(__file__).with_name("published.yaml")


@dataclass(frozen=True)
class Published:
    """One published checkpoint.

    Attributes:
        name: for ``weights=``, such as ``"ade20k-b"``.
        group: the first part of the name; with an architecture it means the checkpoint too.
        architecture: whose weights these are.
        url: the whole address.
        file: its name in the cache folder.
        data: the name of the data set.
        num_classes: of the data set.
        classes: the shipped data set with its class names and colours; None: the file says them, or it has none.
        origin: who published it.
        home: their address.
        licence: theirs.
        terms: licence and the data's terms in sentences.
        preprocessing: mean, std and short side, as in a model's metadata.
        protocol: how the mIoU was measured.
        miou: in percent, at one scale and at several, as published; None for an encoder.
        rank: the NMF rank that it was trained with; None for an encoder.
        size: bytes; None where nobody has measured it.
        sha256: 64 digits; None where nobody has measured them.
    """

    name: str
    group: str
    architecture: str
    url: str
    file: str
    data: str
    num_classes: int
    classes: str | None
    origin: str
    home: str
    licence: str
    terms: str
    preprocessing: dict[str, Any] = field(hash=False)
    protocol: str
    miou: tuple[float, float] | None
    rank: int | None
    size: int | None
    sha256: str | None


def list_published() -> list[str]:
    """Return the names of all published weights."""
    return list(_registry(FILE))


def load_published(name: str) -> Published:
    """Return what is known about published weights.

    Raises:
        ValueError: there are none of this name, or it is that of a group.
    """
    found = find(name)
    if found is None:
        raise ValueError(
            f"weights: name must be that of published weights, got {one_line(repr(name))}; {suggestion(name)}"
        )
    return found


def find(source: object, architecture: str | None = None, part: str = "all") -> Published | None:
    """Return the published weights that a source means; None for a path and the like.

    Args:
        source: a name, or a group's (``"ade20k"``), which the architecture completes.
        architecture: of the model that is to get them, if it is known.
        part: ``"backbone"``: the encoder alone will be loaded, from weights of either network.

    Raises:
        ValueError: a group without an architecture, or weights of another architecture.
    """
    known = _registry(FILE)
    if not isinstance(source, str):
        return None
    if source in known:
        found = known[source]
    elif members := [published for published in known.values() if published.group == source]:
        names = ", ".join(published.name for published in members)
        if architecture is None:
            raise ValueError(
                f"weights: {source!r} must come with an architecture, got none; take one of {names}, or name the "
                "architecture, as in create_model('segnext_t', weights=...)"
            )
        size = architecture.rpartition("_")[2]
        fitting = [published for published in members if _size(published) == size]
        if not fitting:
            raise ValueError(
                f"weights: architecture must be one that {source!r} is published for, got {architecture}; "
                f"there are {names}"
            )
        found = fitting[0]
    else:
        return None
    if architecture is not None:
        _expect_fitting(found, architecture, part)
    return found


def metadata_of(published: Published) -> dict[str, Any]:
    """Return what a model's metadata is to say of published weights where their file says nothing."""
    from segnext.data.config import load_classes

    metadata: dict[str, Any] = {"preprocessing": dict(published.preprocessing)}
    if published.classes is not None:
        names, palette = load_classes(published.classes)
        metadata |= {"classes": list(names), "palette": [list(colour) for colour in palette]}
    if published.miou is not None:
        single, several = published.miou
        metadata["metrics"] = {
            "miou": round(single / 100, 4),
            "miou_multi_scale": round(several / 100, 4),
            "protocol": published.protocol,
            "measured_by": published.origin,
        }
    metadata["recipe"] = {
        "weights": published.name,
        "data": published.group,
        "published_by": published.origin,
        "url": published.url,
        "licence": published.licence,
        "terms": published.terms,
    }
    return metadata


def suggestion(word: str) -> str:
    """Return the end of a message about a name that is unknown: the names that are close, or all."""
    known = _registry(FILE)
    words = [*known, *dict.fromkeys(published.group for published in known.values())]
    close = difflib.get_close_matches(word.lower(), words, n=3, cutoff=0.6)
    if close:
        return f"did you mean {' or '.join(close)}?"
    groups: dict[str, list[str]] = {}
    for published in known.values():
        groups.setdefault(published.group, []).append(_size(published))
    return "published are " + ", ".join(f"{group}-{'/'.join(sizes)}" for group, sizes in groups.items())


def _size(published: Published) -> str:
    return published.architecture.rpartition("_")[2]


def _expect_fitting(found: Published, architecture: str, part: str) -> None:
    """Raise before a download if the weights are of another architecture, see `find`."""
    size = architecture.rpartition("_")[2]
    if size != _size(found):
        other = f"{found.group}-{size}"
        remedy = f"take {other}" if other in _registry(FILE) else f"{found.architecture} is what they fit"
    elif architecture != found.architecture and part == "all":
        remedy = "pass part='backbone' (--part backbone) for the encoder alone"
    else:
        return
    raise ValueError(
        f"weights: {found.name} must be loaded into {found.architecture}, got {architecture}; {remedy}"
    )


@cache
def _registry(path: Path) -> dict[str, Published]:
    known = {}
    for group, content in read_yaml(path)["groups"].items():
        for size in SIZES:
            if size not in content["sizes"]:
                continue
            row = content["sizes"][size]
            known[f"{group}-{size}"] = Published(
                name=f"{group}-{size}",
                group=group,
                architecture=f"{content['network']}_{size}",
                url=content["base"] + row["path"],
                file=row.get("file", row["path"].rpartition("/")[2]),
                data=content["data"],
                num_classes=content["num_classes"],
                classes=content.get("classes"),
                origin=content["origin"],
                home=content["home"],
                licence=content["licence"],
                terms=content["terms"],
                preprocessing=content["preprocessing"],
                protocol=content.get("protocol", ""),
                miou=tuple(row["miou"]) if "miou" in row else None,
                rank=content.get("rank"),
                size=row.get("bytes"),
                sha256=row.get("sha256"),
            )
    return known
