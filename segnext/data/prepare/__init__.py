"""Makes label maps of class ids from what public data sets and annotation programs give.

Each kind of annotation has a module with one function, ``plan(request)``, which looks at the folders and returns the
jobs; `segnext.data.prepare.work` runs them in several processes. Nothing heavy is imported here: the help reads it.
"""

from __future__ import annotations

KINDS = {
    "voc2012_aug": "Pascal VOC 2012 and SBD's .mat files to SegmentationClassAug and trainaug.txt",
    "pascal_context": "trainval_merged.json, or the .mat files and labels.txt, to SegmentationClassContext",
    "coco_stuff": "stuffthingmaps (182 ids) to annotations/.../*_labelTrainIds.png (171 ids)",
    "isaid": "large images and colour masks to tiles of 896x896 in img_dir and ann_dir",
    "cityscapes": "polygons of gtFine to *_gtFine_labelTrainIds.png (19 ids)",
    "coco_json": "instances in COCO's JSON (polygons, RLE) to labels/ and data.yaml",
    "labelme": "labelme's JSON (polygons, rectangles, circles) to labels/ and data.yaml",
}
"""What can be prepared, and what becomes of it; each name is a module here."""
