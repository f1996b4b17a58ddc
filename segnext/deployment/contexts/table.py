"""The table of deployed contexts, by the names that configurations use."""

from __future__ import annotations

from segnext.deployment.contexts.attentions import FoldedCrissCross, FoldedNonLocal, FoldedStripAttention
from segnext.deployment.contexts.context import FoldedContext
from segnext.deployment.contexts.hamburgers import (
    FoldedConcepts,
    FoldedEM,
    FoldedHamburger,
    FoldedQuantisation,
)
from segnext.deployment.contexts.pyramids import FoldedASPP, FoldedPyramid

CONTEXTS: dict[str, type[FoldedContext]] = {
    "ham": FoldedHamburger,
    "vq": FoldedQuantisation,
    "cd": FoldedConcepts,
    "cc": FoldedCrissCross,
    "em": FoldedEM,
    "nl": FoldedNonLocal,
    "msca": FoldedStripAttention,
    "aspp": FoldedASPP,
    "psp": FoldedPyramid,
}
