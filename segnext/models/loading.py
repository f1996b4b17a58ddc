"""``load_state_dict`` that takes every checkpoint layout of SegNeXt."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from segnext.models import dialects

BASES = "hamburger.bases"


class AnyLayoutModule(nn.Module):
    """A module whose ``load_state_dict`` translates foreign key layouts to its own first."""

    def load_state_dict(
        self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False
    ) -> Any:
        """As in ``torch.nn.Module``, for every layout that ``segnext.models.dialects`` knows.

        Foreign checkpoints lack the NMF bases, some lack ``num_batches_tracked``: the model then keeps its
        own, and their names are in the returned ``missing_keys`` without being an error.

        Raises:
            ValueError: the checkpoint's NMF bases have another rank.
            RuntimeError: strict, and keys or shapes differ.
        """
        own = self.state_dict(keep_vars=True)
        native: dict[str, Tensor] = dict(dialects.to_native(state_dict, own.keys()))
        for key in own.keys() & native.keys():
            if key.endswith(BASES) and native[key].shape[-1] != own[key].shape[-1]:
                raise ValueError(
                    f"load_state_dict: rank of {key} must be {own[key].shape[-1]} as in this model, "
                    f"got {native[key].shape[-1]}; create it with create_model(rank={native[key].shape[-1]})"
                )
        optional = [key for key in own.keys() - native.keys() if key.endswith((BASES, "num_batches_tracked"))]
        result = super().load_state_dict(native | {key: own[key] for key in optional}, strict, assign)
        result.missing_keys.extend(sorted(optional))
        return result
