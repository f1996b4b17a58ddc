"""Tests that a run's settings are plain values in range, so that a checkpoint can hold them."""

import json

import numpy as np
import pytest
import torch

from segnext.training.settings import Reporting, TrainSettings


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"crop": 0}, "crop must be 1 to 8192 pixels, got 0"),
        ({"crop": 8193}, "crop must be 1 to 8192 pixels, got 8193"),
        ({"crop": 32, "batch_size": 1}, "batch_size must be at least 2 for crops of up to 32 pixels, got 1"),
        ({"steps": 100.5}, r"steps must be a whole number, got 100\.5"),
        ({"crop": "224"}, "crop must be a whole number, got '224'"),
        ({"seed": 1 << 64}, r"seed must be 0 or more and less than 2\^64, got 18446744073709551616"),
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"accumulate": 0}, "accumulate must be at least 1, got 0"),
        ({"lr": 0.0}, "lr must be above 0, got 0.0"),
        ({"lr": float("nan")}, "lr must be above 0, got nan"),
        ({"head_lr_multiplier": -1}, "head_lr_multiplier must be above 0, got -1"),
        ({"weight_decay": -0.1}, "weight_decay must be 0 or more, got -0.1"),
        ({"steps": 50}, r"warmup must be 0 or more and less than steps \(50\), got 100"),
        ({"schedule": "step"}, "schedule must be linear or cosine, got step"),
        ({"clip": -1}, r"clip must be 0 \(no limit\) or more, got -1"),
        ({"balance": 1.5}, r"balance must be in 0\.\.1, got 1\.5"),
        ({"label_smoothing": 1}, r"label_smoothing must be in 0\.\.1 \(1 excluded\), got 1"),
        ({"reduction": "sum"}, "reduction must be mean or mean_all, got sum"),
        ({"dtype": "float64"}, "dtype must be float32 or bfloat16 or float16, got float64"),
        ({"seed": -1}, r"seed must be 0 or more and less than 2\^64, got -1"),
        ({"lr": "1e-3"}, "lr must be a number, got '1e-3'"),
        ({"ema": None}, "ema must be a number, got None"),
        ({"steps": True}, "steps must be a whole number, got True"),
        ({"flip": "no"}, "flip must be True or False, got 'no'"),
        ({"scale": (0.5,)}, "scale must be two numbers, got "),
        ({"scale": None}, "scale must be two numbers, got None"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else None,
)
def test_settings_out_of_range(settings, message):
    with pytest.raises(ValueError, match=f"train: {message}"):
        TrainSettings(**settings)


@pytest.mark.parametrize("name", ["eval_every", "checkpoint_every", "log_every", "workers"])
def test_reporting_out_of_range(name):
    with pytest.raises(ValueError, match=rf"train: {name} must be at least \d, got -1"):
        Reporting(**{name: -1})


@pytest.mark.parametrize("value", [1.5, None, "2", True], ids=repr)
def test_reporting_of_another_type(value):
    with pytest.raises(ValueError, match=r"train: workers must be a whole number, got "):
        Reporting(workers=value)


def test_numbers_of_numpy_and_pytorch_become_plain():
    plain = TrainSettings(steps=200, lr=0.5, ema=0.25, flip=False, scale=(0.5, 2.0))
    same = TrainSettings(
        steps=np.int64(200),
        lr=np.float32(0.5),
        ema=torch.tensor(0.25),
        flip=np.bool_(False),
        scale=np.array([0.5, 2.0], dtype=np.float16),
    )
    assert same == plain
    assert json.loads(json.dumps(same.as_json())) == plain.as_json()
    assert Reporting(workers=np.uint8(2)) == Reporting(workers=2)
