"""Runs under mmsegmentation's interpreter: prints the measures of its IoUMetric on the maps in a file, as JSON."""

import json
import sys

import numpy as np
import torch
from mmseg.evaluation import IoUMetric


def main(path: str, num_classes: int, ignore_index: int) -> None:
    maps = np.load(path)
    metric = IoUMetric(ignore_index=ignore_index, iou_metrics=["mIoU", "mDice", "mFscore"])
    metric.dataset_meta = {"classes": [str(index) for index in range(num_classes)]}
    for index in range(len(maps.files) // 2):
        sample = {
            "pred_sem_seg": {"data": torch.from_numpy(maps[f"prediction{index}"]).long()[None]},
            "gt_sem_seg": {"data": torch.from_numpy(maps[f"label{index}"]).long()[None]},
        }
        metric.process({}, [sample])
    areas = [sum(column) for column in zip(*metric.results)]  # noqa: B905 (its Python may be 3.8)
    by_class = metric.total_area_to_metrics(*areas, metrics=metric.metrics)
    measures = {name: np.asarray(values, float).tolist() for name, values in by_class.items()}
    rounded = {name: float(value) for name, value in metric.compute_metrics(metric.results).items()}
    print("measures " + json.dumps({"by_class": measures, "rounded": rounded}))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
