"""The numbers of the SegNeXt paper (arXiv 2209.08575) about its own networks, by the names of our models.

mIoU and accuracy are percentages. "SS" is the test at one scale, "MS" the one at several scales with flips.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

ADE20K, CITYSCAPES, COCO_STUFF, CONTEXT = "ADE20K", "Cityscapes", "COCO-Stuff", "Pascal Context"
IMAGENET, ISAID, VOC = "ImageNet", "iSAID", "Pascal VOC"
# Height, width and classes for which the paper counts multiply-adds, and the classes for which it counts parameters;
# its table 9 gives the parameters once for all data sets.
SIZE, CLASSES = (512, 512), 150
SIZES = {CITYSCAPES: (1024, 2048)}
CLASSES_COUNTED = {CITYSCAPES: 19}
CLASSES_OF_PARAMETERS = {CONTEXT: 60}


@dataclass(frozen=True)
class Row:
    """One row of a table.

    Attributes:
        table: number of the table in the paper; those of the appendix begin with A.
        name: of the model, one of ``segnext.list_models(variants=True)``.
        millions: parameters, in millions.
        giga: multiply-adds in billions, which the paper calls GFLOPs, at ``size``.
        dataset: of the scores.
        miou: at one scale.
        miou_ms: at several scales with flips.
        top1: accuracy.
        note: what is special about the row.
    """

    table: str
    name: str
    millions: float | None = None
    giga: float | None = None
    dataset: str | None = None
    miou: float | None = None
    miou_ms: float | None = None
    top1: float | None = None
    note: str = ""

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the input for which ``giga`` was counted."""
        return SIZES.get(self.dataset or "", SIZE)

    @property
    def classes(self) -> int:
        """Classes for which ``giga`` was counted."""
        return CLASSES_COUNTED.get(self.dataset or "", CLASSES)

    @property
    def classes_of_parameters(self) -> int:
        """Classes for which ``millions`` was counted."""
        return CLASSES_OF_PARAMETERS.get(self.dataset or "", CLASSES)


TABLE_2 = (
    Row("2", "segnext_t", 4.3),
    Row("2", "segnext_s", 13.9),
    Row("2", "segnext_b", 27.6),
    Row("2", "segnext_l", 48.9),
)
TABLE_3 = (
    Row("3", "mscan_t", 4.2, dataset=IMAGENET, top1=75.9),
    Row("3", "mscan_s", 14.0, dataset=IMAGENET, top1=81.2),
    Row("3", "mscan_b", 26.8, dataset=IMAGENET, top1=83.0),
    Row("3", "mscan_l", 45.2, dataset=IMAGENET, top1=83.9),
)
TABLE_4 = (
    Row("4", "segnext_t", dataset=ISAID, miou=68.3),
    Row("4", "segnext_s", dataset=ISAID, miou=68.8),
    Row("4", "segnext_b", dataset=ISAID, miou=69.9),
    Row("4", "segnext_l", dataset=ISAID, miou=70.3),
)
# Global context in the decoder.
TABLE_5 = (
    Row("5", "segnext_b_cc", 27.8, 35.7, ADE20K, 47.3, 48.6),
    Row("5", "segnext_b_em", 27.4, 32.3, ADE20K, 48.0, 49.1, note="parameters that are trained"),
    Row("5", "segnext_b_nl", 27.6, 40.9, ADE20K, 48.6, 50.0),
    Row("5", "segnext_b", 27.6, 34.9, ADE20K, 48.5, 49.9),
)
# The parts of the attention: accuracy is that of the encoder.
TABLE_6 = (
    Row("6", "segnext_t_strip7", dataset=ADE20K, miou=39.6, top1=74.7),
    Row("6", "segnext_t_strip11", dataset=ADE20K, miou=39.7, top1=75.2),
    Row("6", "segnext_t_strip21", dataset=ADE20K, miou=40.0, top1=75.3),
    Row("6", "segnext_t_nomix", dataset=ADE20K, miou=39.1, top1=74.8),
    Row("6", "segnext_t_nogate", dataset=ADE20K, miou=40.5, top1=75.5),
    Row("6", "segnext_t", dataset=ADE20K, miou=41.1, top1=75.9),
)
# The structure of the decoder.
TABLE_7 = (
    Row("7", "segnext_t_mlp", 4.4, 10.0, ADE20K, 40.3, 41.1),
    Row(
        "7", "segnext_t_cnn", 4.2, 4.9, ADE20K, 30.9, 40.6, note="30.9 as printed, 9.7 below the other score"
    ),
    Row("7", "segnext_t", 4.3, 6.6, ADE20K, 41.1, 42.2),
    Row("7", "segnext_t_stage1", 4.3, 12.1, ADE20K, 40.7, 42.2),
)
# One large kernel in place of the strips.
TABLE_8 = (
    Row("8", "segnext_t_lka", 4.2, 6.5, ADE20K, 39.5, 40.9),
    Row("8", "segnext_t", 4.3, 6.6, ADE20K, 41.0, 42.5, note="41.1 and 42.2 in tables 7 and 9"),
    Row("8", "segnext_s_lka", 13.8, 15.8, ADE20K, 43.5, 45.2),
    Row("8", "segnext_s", 13.9, 15.9, ADE20K, 44.3, 45.8),
)
TABLE_9 = (
    Row("9", "segnext_t", 4.3, 6.6, ADE20K, 41.1, 42.2),
    Row("9", "segnext_t", 4.3, 50.5, CITYSCAPES, 79.8, 81.4),
    Row("9", "segnext_t", 4.3, 6.6, COCO_STUFF, 38.7, 39.1),
    Row("9", "segnext_s", 13.9, 15.9, ADE20K, 44.3, 45.8),
    Row("9", "segnext_s", 13.9, 124.6, CITYSCAPES, 81.3, 82.7),
    Row("9", "segnext_s", 13.9, 15.9, COCO_STUFF, 42.2, 42.8),
    Row("9", "segnext_b", 27.6, 34.9, ADE20K, 48.5, 49.9),
    Row("9", "segnext_b", 27.6, 275.7, CITYSCAPES, 82.6, 83.8),
    Row("9", "segnext_b", 27.6, 34.9, COCO_STUFF, 45.8, 46.3),
    Row("9", "segnext_l", 48.9, 70.0, ADE20K, 51.0, 52.1),
    Row("9", "segnext_l", 48.9, 577.5, CITYSCAPES, 83.2, 83.9),
    Row("9", "segnext_l", 48.9, 70.0, COCO_STUFF, 46.5, 47.2),
)
TABLE_10 = (
    Row("10", "segnext_t", dataset=VOC, miou=82.7),
    Row("10", "segnext_s", dataset=VOC, miou=85.3),
    Row("10", "segnext_b", dataset=VOC, miou=87.5),
    Row("10", "segnext_l", dataset=VOC, miou=90.6, note="pretrained on COCO"),
)
TABLE_11 = (Row("11", "segnext_t", dataset="Cityscapes test", miou=78.0, note="images of 768x1536"),)
TABLE_12 = (
    Row("12", "segnext_t", 4.2, 6.6, CONTEXT, 51.2, 53.3),
    Row("12", "segnext_s", 13.9, 15.9, CONTEXT, 54.2, 56.1),
    Row("12", "segnext_b", 27.6, 34.9, CONTEXT, 57.0, 59.0),
    Row("12", "segnext_l", 48.8, 70.0, CONTEXT, 58.7, 60.3),
    Row("12", "segnext_l", 48.8, 70.0, CONTEXT, 59.2, 60.9, note="pretrained on ADE20K"),
)
# The encoder's attention in the decoder.
TABLE_A2 = (
    Row("A2", "segnext_t_msca", 4.4, 6.7, COCO_STUFF, 38.2, 38.6),
    Row("A2", "segnext_t", 4.3, 6.6, COCO_STUFF, 38.7, 39.1),
    Row("A2", "segnext_s_msca", 14.0, 15.9, COCO_STUFF, 42.1, 42.4),
    Row("A2", "segnext_s", 13.9, 15.9, COCO_STUFF, 42.2, 42.8),
    Row("A2", "segnext_b_msca", 28.0, 33.6, COCO_STUFF, 45.1, 45.5),
    Row("A2", "segnext_b", 27.6, 34.9, COCO_STUFF, 45.8, 46.3),
    Row("A2", "segnext_l_msca", 50.1, 69.8, COCO_STUFF, 45.9, 46.4),
    Row("A2", "segnext_l", 48.9, 70.0, COCO_STUFF, 46.5, 47.2),
)
ROWS = (
    *TABLE_2,
    *TABLE_3,
    *TABLE_4,
    *TABLE_5,
    *TABLE_6,
    *TABLE_7,
    *TABLE_8,
    *TABLE_9,
    *TABLE_10,
    *TABLE_11,
    *TABLE_12,
    *TABLE_A2,
)


def rows_of(name: str) -> Iterator[Row]:
    """Yield the rows about a model, in the order of the tables."""
    return (row for row in ROWS if row.name == name)
