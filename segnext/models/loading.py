"""``load_state_dict`` that takes every checkpoint dialect of SegNeXt."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from segnext.models import dialects
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

        Foreign checkpoints may lack the NMF bases and ``num_batches_tracked``. The model then keeps its own; their
        names are in the returned ``missing_keys``, which is no error.

        Args:
            state_dict: names to tensors.
            strict: raise if names differ.
            assign: keep the given tensors instead of copying their values.
            native: the names are this model's already and are not translated.

        Raises:
            ValueError: the checkpoint's NMF bases have another rank, or a tensor holds something other than finite
                floating numbers.
            RuntimeError: strict, and keys or shapes differ.
        """
        own = self.state_dict(keep_vars=True)
        given = dict(state_dict) if native else dialects.to_native(state_dict, own.keys())
        expect_weights("load_state_dict", given, own)
        for key in own.keys() & given.keys():
            if key.endswith(dialects.BASES) and given[key].shape[-1:] != own[key].shape[-1:]:
                given_rank = given[key].shape[-1] if given[key].ndim else "no axis"
                raise ValueError(
                    f"load_state_dict: rank of {key} must be {own[key].shape[-1]} as in this model, "
                    f"got {given_rank}; create it with create_model(rank={given_rank})"
                )
        optional = [key for key in own.keys() - given.keys() if key.endswith(dialects.OPTIONAL)]
        result = super().load_state_dict(given | {key: own[key] for key in optional}, strict, assign)
        result.missing_keys.extend(sorted(optional))
        return result
