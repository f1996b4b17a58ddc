"""Finds averaged weights (EMA, SWA) in a checkpoint, and chooses between them and the weights that were averaged.

Four habits are known. mmengine, timm and torchvision keep two state dicts side by side. mmcv keeps copies inside the
state dict as ``ema_`` and the name with underscores. Some modules own their average (``ema_model.``). PyTorch's
``AveragedModel`` writes the average alone, with a counter ``n_averaged``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from segnext.models.dialects import bare_name

# Keys of a second state dict. timm, torchvision and RT-DETR keep the average there, and their inference takes it.
# mmengine and Lightning swap before they save: there, the second one holds the weights before averaging.
AVERAGED_KEYS = ("state_dict_ema", "model_ema", "ema_state_dict", "ema_model", "ema")
RAW_KEYS = ("current_model_state",)
_OWNED = re.compile(r"^(?:ema_model|model_ema|averaged_model|swa_model|ema)\.")
COUNTER = "n_averaged"


def choose(
    state_dict: Mapping[str, Any],
    second: tuple[str, Mapping[str, Any]] | None,
    beside: Mapping[str, Any],
    average: bool | None,
) -> tuple[dict[str, Any], str]:
    """Choose the weights to load.

    Args:
        state_dict: the file's weights, by the names that they were saved with.
        second: the state dict beside it, if there is one, and its key.
        beside: the other entries of the file, which show whether mmengine wrote it.
        average: True takes the average, False the weights before averaging, None what the peer's inference takes.

    Returns:
        The weights, and a sentence that says which they are; "" if the file holds one set only.

    Raises:
        ValueError: the set asked for is not there.
    """
    own, copies = _separate(state_dict)
    if second is not None:
        key, others = second
        lacking, size = _lacking(own, others)
        if lacking == size and average is None:
            return own, f"those beside {key}, which holds no tensors of their names"
        if lacking == size:
            raise ValueError(
                f"average must be None for a file whose {key} holds no tensors of the names beside it, got {average}"
            )
        takes_average = average is not False
        what = "the averaged ones" if takes_average else "those before averaging"
        option = "--no-average" if takes_average else "--average"
        change = f"average={not takes_average} (segnext convert {option}) takes the others"
        if takes_average == (key in AVERAGED_KEYS and not _is_swapped(key, beside)):
            rest = f" ({lacking} of {size} tensors, which it lacks, are those beside it)" if lacking else ""
            return _replaced(own, _separate(others)[0]), f"{what}, from {key}{rest}; {change}"
        return own, f"{what}, without those in {key}; {change}"
    if copies and own:
        if average:
            return _replaced(
                own, copies
            ), f"the {len(copies)} averaged copies in the state dict, and what has none"
        return own, (
            f"without {len(copies)} averaged copies in the state dict; average=True (segnext convert --average) "
            "takes them"
        )
    if copies or COUNTER in map(bare_name, own):
        if average is False:
            raise ValueError("average must be True or None for a file with averaged weights only, got False")
        return copies or own, "the average, which is all that the file holds"
    if average:
        raise ValueError("average must be False or None for a file without averaged weights, got True")
    return own, ""


def _is_swapped(key: str, beside: Mapping[str, Any]) -> bool:
    meta = beside.get("meta")
    by_mmengine = "message_hub" in beside or (isinstance(meta, Mapping) and "mmengine_version" in meta)
    return key == "ema_state_dict" and by_mmengine


def _lacking(own: Mapping[str, Any], others: Mapping[str, Any]) -> tuple[int, int]:
    """Return how many of the tensors in ``own`` the others lack, and of how many; counters of batches do not count."""
    given = {bare_name(key) for key in _separate(others)[0]}
    names = [bare_name(key) for key in own if not key.endswith("num_batches_tracked")]
    return sum(name not in given for name in names), len(names)


def _replaced(own: Mapping[str, Any], others: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``own`` with the tensors of ``others``, whose names may have other wrappers in front."""
    names = {bare_name(key): key for key in own}
    return {**own, **{names.get(bare_name(key), key): value for key, value in others.items()}}


def _separate(state_dict: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Separate the copies that lie in a state dict under names of their own from the other tensors."""
    by_underscores = {f"ema_{bare_name(key).replace('.', '_')}": key for key in state_dict}
    own: dict[str, Any] = {}
    copies: dict[str, Any] = {}
    for key, value in state_dict.items():
        bare = bare_name(key)
        if bare in by_underscores:
            copies[by_underscores[bare]] = value
        elif _OWNED.match(bare):
            copies[_OWNED.sub("", bare)] = value
        else:
            own[key] = value
    return own, copies
