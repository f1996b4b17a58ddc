"""The table of modules for global context, by the names that configurations use."""

from __future__ import annotations

from segnext.models.contexts.aspp import ASPP
from segnext.models.contexts.attention import StripAttention
from segnext.models.contexts.concepts import ConceptDecomposition
from segnext.models.contexts.context import Context
from segnext.models.contexts.criss_cross import CrissCross
from segnext.models.contexts.em import EMAttention
from segnext.models.contexts.non_local import NonLocal
from segnext.models.contexts.pyramid import PyramidPooling
from segnext.models.contexts.quantisation import VectorQuantisation
from segnext.models.ham import Hamburger

CONTEXTS: dict[str, type[Context]] = {
    "ham": Hamburger,
    "vq": VectorQuantisation,
    "cd": ConceptDecomposition,
    "cc": CrissCross,
    "em": EMAttention,
    "nl": NonLocal,
    "msca": StripAttention,
    "aspp": ASPP,
    "psp": PyramidPooling,
}
