"""Reads checkpoints of every container and dialect into our names, with what the files say about themselves."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor

from segnext.models import dialects
from segnext.one_line import one_line, shown
from segnext.weights import averages
from segnext.weights.catalogue import find_weights
from segnext.weights.config_text import Settings, read_settings
from segnext.weights.configuration import expect_config, fitting_metadata, name_without_axes
from segnext.weights.containers import read_contents
from segnext.weights.identify import complete, describe, foreign_metadata
from segnext.weights.published import Published, metadata_of

FIRST_CONVOLUTION = "stem.conv1.weight"
FROM_CONFIG = "from the file's config"


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint in our names.

    Attributes:
        tensors: our names to tensors on the CPU.
        config: architecture and model overrides; where known, classes, palette, preprocessing, recipe and
            metrics.
        origin: file, container and dialect in words.
        rank_from: where the NMF rank in ``config`` comes from; "" if there is none.
        reshaped: names whose shape differed in the file.
        taken: which weights were taken, if the file holds averaged ones too; else "".
        settings: the other facts that no tensor shows, each with where it comes from.
        left_out: names of tensors that belong to parts beside the model, such as auxiliary heads.
        refusals: settings of the file that segnext cannot compute; those of the encoder begin with ``backbone``.
        notes: facts to warn of.
    """

    tensors: dict[str, Tensor]
    config: dict[str, Any]
    origin: str
    rank_from: str = ""
    reshaped: list[str] = field(default_factory=list)
    taken: str = ""
    settings: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    refusals: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def tells_all(self) -> bool:
        """Whether the file is ours: what its configuration leaves out is as by default."""
        return self.rank_from == FROM_CONFIG


def read_checkpoint(
    source: str | os.PathLike[str],
    rank: int | None = None,
    average: bool | None = None,
    architecture: str | None = None,
    part: str = "all",
) -> Checkpoint:
    """Read a checkpoint of any container and dialect; nothing in the file is executed.

    Args:
        source: a file, a shipped name, or a published one, which is downloaded.
        rank: NMF rank of a foreign checkpoint, if it is not the one that its origin uses.
        average: for a file with averaged weights (EMA, SWA): True takes them, False the others, None those that
            the inference of the code that wrote the file takes.
        architecture: of the model that is to get the weights; it completes names such as ``"ade20k"``.
        part: ``"backbone"`` if the encoder alone will be loaded.

    Raises:
        FileNotFoundError: neither a file nor a name.
        ValueError: damaged, not a checkpoint of SegNeXt or MSCAN, or ``average`` asks for weights that are not there.
        DownloadError: see :func:`segnext.weights.downloads.fetch`.
    """
    if average not in (None, True, False):
        raise ValueError(f"read_checkpoint: average must be True, False or None, got {shown(average)}")
    if rank is not None and (isinstance(rank, bool) or not hasattr(rank, "__index__") or rank < 1):
        raise ValueError(f"read_checkpoint: rank must be a positive integer, got {shown(rank)}")
    path, published = find_weights(source, architecture, part)
    file = one_line(path, 240)
    contents = read_contents(path)
    try:
        state_dict, taken = averages.choose(contents.state_dict, contents.second, contents.beside, average)
        translation = dialects.translate(state_dict)
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from error
    origin = f"{file} ({contents.kind}, {translation.dialect} layout)"
    if contents.foreign:
        origin += (
            f", without its objects of {some([one_line(name, 60) for name in sorted(contents.foreign)])}"
        )
    tensors = {key: value for key, value in translation.tensors.items() if not dialects.BESIDE.match(key)}
    left_out = [key for key in translation.tensors if key not in tensors]
    if contents.config:
        expect_config(contents.config, tensors, file)
        return Checkpoint(
            tensors, complete(contents.config), origin, FROM_CONFIG, translation.reshaped, taken
        )
    found = read_settings(contents.beside)
    checkpoint = foreign_checkpoint(
        found, contents.meta, translation, tensors, file, origin, taken, left_out, rank
    )
    return checkpoint if published is None else _described(checkpoint, published)


def foreign_checkpoint(
    found: Settings,
    meta: Mapping[str, Any],
    translation: dialects.Translation,
    tensors: dict[str, Tensor],
    file: str,
    origin: str,
    taken: str = "",
    left_out: Sequence[str] = (),
    rank: int | None = None,
) -> Checkpoint:
    """Describe a checkpoint without our config, by its tensors and by the configuration that it carries.

    Args:
        found: what the configuration says.
        meta: where class names and palette may be.
        translation: the tensors in our names, with those of parts beside the model.
        tensors: those of the model.
        file: begins messages.
        origin, taken, left_out: see :class:`Checkpoint`.
        rank: the NMF rank, if the user gives it.

    Raises:
        ValueError: no model has these tensors.
    """
    try:
        config, rank_from, settings = describe(tensors, translation.dialect, found, rank)
    except IndexError:
        short = name_without_axes(tensors)
        raise ValueError(f"{file}: tensors must have a SegNeXt's axes, got {short}; fetch it again") from None
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from None
    metadata, notes = foreign_metadata(meta)
    if found.classes:
        metadata.setdefault("classes", found.classes)
    if "threshold" in config["model"] and len(metadata.get("classes", ())) == 1:
        metadata["classes"] = ["background", *metadata["classes"]]
        if "palette" in metadata:
            metadata["palette"] = [[0, 0, 0], *metadata["palette"]]
    tensors, preprocessing, more = _in_rgb(tensors, found)
    if preprocessing:
        metadata.setdefault("preprocessing", preprocessing)
    if (classes := config["model"].get("num_classes")) is not None:
        metadata, left = fitting_metadata(metadata, classes, config["model"].get("in_channels", 3))
        notes += left
    expect_config({**config, **metadata}, tensors, file)
    return Checkpoint(
        tensors,
        {**config, **metadata},
        origin,
        rank_from,
        translation.reshaped,
        taken,
        settings + more,
        list(left_out),
        found.refusals,
        found.notes + notes,
    )


def _described(checkpoint: Checkpoint, published: Published) -> Checkpoint:
    """Add what is known about published weights; what the file itself says stays."""
    config, model = checkpoint.config, checkpoint.config["model"]
    known = metadata_of(published)
    preprocessing = {**known["preprocessing"], **config.get("preprocessing", {})}
    known = {key: value for key, value in known.items() if key not in config} | {
        "preprocessing": preprocessing
    }
    fitting, notes = fitting_metadata(known, model.get("num_classes", 0), model.get("in_channels", 3))
    return replace(checkpoint, config={**config, **fitting}, notes=checkpoint.notes + notes)


def _in_rgb(
    tensors: dict[str, Tensor], found: Settings
) -> tuple[dict[str, Tensor], dict[str, list[float]], list[str]]:
    """Return the tensors and the preprocessing for RGB images, and what was done in words."""
    first = next((key for key in tensors if bare(key) == FIRST_CONVOLUTION), None)
    if first is None:
        return tensors, {}, []
    channels, said, preprocessing = tensors[first].shape[1], list[str](), dict[str, list[float]]()
    given = len(found.preprocessing.get("mean", ()))
    if given in (1, channels):
        preprocessing = {name: values * (channels // given) for name, values in found.preprocessing.items()}
        said.append(f"mean and std from {found.source}")
    elif given:
        said.append(f"mean and std in {found.source} are left out: they are of {given} channels")
    if found.bgr and channels == 3:
        tensors = {**tensors, first: tensors[first].flip(1)}
        preprocessing = {name: values[::-1] for name, values in preprocessing.items()}
        turned = "first convolution, mean and std are" if preprocessing else "the first convolution is"
        said.append(f"the run fed images as BGR: {turned} turned to RGB")
    return tensors, preprocessing, said


def bare(key: str) -> str:
    return key.removeprefix("backbone.")


def some(names: list[str], limit: int = 4) -> str:
    return ", ".join(names[:limit]) + (f" and {len(names) - limit} more" if len(names) > limit else "")
