"""``load_state_dict`` that takes every checkpoint dialect of SegNeXt."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from segnext.models import dialects
from segnext.models.ham import seeded_bases
from segnext.models.values import expect_weights


class AnyDialectModule(nn.Module):
    """A module whose ``load_state_dict`` first translates the names of other code bases to its own."""

    def load_state_dict(
        self,
        state_dict: Mapping[str, Any],
        strict: bool = True,
        assign: bool = False,
        *,
        native: bool = False,
    ) -> Any:
        """Load as ``torch.nn.Module`` does, from every dialect that ``segnext.models.dialects`` knows.

        Foreign checkpoints may lack the NMF bases and ``num_batches_tracked``, which is no error. Where the rest of
        their layer is there, they are filled as in a new model: the bases from their seed, the counts with 0. Their
        names are in the returned ``missing_keys``. Tensors of stages that an encoder leaves out are not loaded; their
        names are in ``unexpected_keys``, which is no error either.

        Args:
            state_dict: names to tensors.
            strict: raise if names differ.
            assign: keep the given tensors instead of copying their values.
            native: the names are this model's already and are not translated.

        Raises:
            TypeError: not a dictionary of names. ValueError: the checkpoint's NMF bases have another rank, or a
                tensor holds something other than finite floating numbers.
            RuntimeError: strict, and keys or shapes differ.
        """
        if not isinstance(state_dict, Mapping) or not all(isinstance(key, str) for key in state_dict):
            kind = type(state_dict).__name__ + (" with other keys" if isinstance(state_dict, Mapping) else "")
            raise TypeError(
                f"load_state_dict: state_dict must be a dictionary of names to tensors, got a {kind}; "
                "segnext.load_weights reads files"
            )
        own = self.state_dict(keep_vars=True)
        given = dict(state_dict) if native else dialects.to_native(state_dict, own.keys())
        expect_weights("load_state_dict", given, own, assign)
        for key in own.keys() & given.keys():
            if key.endswith(".bases") and given[key].shape[-1:] != own[key].shape[-1:]:
                given_rank = given[key].shape[-1] if given[key].ndim else "no axis"
                raise ValueError(
                    f"load_state_dict: rank of {key} must be {own[key].shape[-1]} as in this model, "
                    f"got {given_rank}; create it with create_model(rank={given_rank})"
                )
        left_out = [key for key in given if self.is_left_out(key)]
        for key in left_out:
            del given[key]
        optional = [key for key in own.keys() - given.keys() if key.endswith(dialects.OPTIONAL)]
        result = super().load_state_dict(given | _filled(self, optional, own, given), strict, assign)
        result.missing_keys.extend(key for key in sorted(optional) if key not in result.missing_keys)
        result.unexpected_keys.extend(left_out)
        return result

    def is_left_out(self, key: str) -> bool:
        """Whether a tensor's name is of a part that this model was built without."""
        return False


def expect_model(what: str, model: object) -> None:
    """Raise a TypeError unless this is a SegNeXt or an MSCAN; wrappers (DDP, torch.compile) hold one."""
    if isinstance(model, AnyDialectModule):
        return
    inner = ("module", "_orig_mod")
    held = next((name for name in inner if isinstance(getattr(model, name, None), AnyDialectModule)), None)
    remedy = f"pass its .{held}" if held else "create_model makes one"
    raise TypeError(f"{what}: model must be a SegNeXt or an MSCAN, got {type(model).__name__}; {remedy}")


def _filled(
    model: nn.Module, keys: list[str], own: Mapping[str, Tensor], given: Mapping[str, Any]
) -> dict[str, Tensor]:
    """Return new tensors for those of ``keys`` whose layer is given but for them.

    The model's own may hold anything: nothing after ``to_empty``, and no values on the meta device.
    """
    filled = {}
    for key in keys:
        layer = key.rpartition(".")[0] + "."
        like = next((tensor for name, tensor in given.items() if name.startswith(layer)), None)
        if like is None:
            continue
        # With assign=True they become the model's own, with its other tensors' device and dtype.
        if key.endswith(dialects.BASES):
            one, channels, rank = own[key].shape
            signed = getattr(model.get_submodule(layer[:-1]), "signed", False)
            filled[key] = seeded_bases((one, channels, rank), signed).to(like)
        else:
            filled[key] = torch.zeros((), dtype=torch.int64, device=like.device)
    return filled
