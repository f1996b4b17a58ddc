"""`segnext patch` on models of a user's module."""

import sys

import pytest

from oracle import foreign_models

MODULE = """
from oracle import foreign_models
from torch import nn

def build():
    return foreign_models.Mlp(16, 32)

ready = nn.Sequential(foreign_models.Block(16, 2, foreign_models.StripUnit, 0.0, 0.0))
plain = nn.Linear(2, 2)
number = 3

def fails():
    raise RuntimeError("no such config")
"""


@pytest.fixture
def networks(tmp_path, monkeypatch):
    """A module in the current folder, as users have it."""
    (tmp_path / "my_networks.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path])
    yield
    sys.modules.pop("my_networks", None)


@pytest.fixture
def run(capsys):
    from tests.cli.commands import ended

    def call(*words):
        status = ended("patch", *words)
        shown = capsys.readouterr()
        return status, shown.out, shown.err

    return call


@pytest.mark.usefixtures("networks")
def test_report_comparison_and_times(run):
    words = ("--size", "12x9", "--channels", 16, "--verify", "--seconds", "0.1", "--batch", 2)
    status, text, _ = run("my_networks:build", *words)
    assert status == 0 and "1 modules patched, 0 left alone" in text
    assert "1 x Mlp: convolutional feed-forward network by conv_ffn" in text
    assert "evaluation: outputs differ by" in text and "training: outputs differ by" in text
    assert (
        "inference of 2x16x12x9: " in text and "training step of 2x16x12x9: " in text and " ms after" in text
    )


@pytest.mark.usefixtures("networks")
def test_a_model_that_is_there_is_not_changed(run):
    status, text, _ = run("my_networks:ready", "--size", 8, "--channels", 16, "--seconds", 0)
    assert status == 0 and "MSCA attention by msca_conv, gated_pointwise" in text and " ms " not in text
    block = sys.modules["my_networks"].ready[0]
    assert type(block) is foreign_models.Block


@pytest.mark.usefixtures("networks")
def test_nothing_to_patch_is_not_timed(run):
    status, text, _ = run("my_networks:plain")
    assert status == 0 and text.startswith("nothing to patch: ") and " ms " not in text


@pytest.mark.usefixtures("networks")
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["my_networks"], "MODEL must be package.module:name, got 'my_networks'"),
        (["no_such_networks:build"], "no_such_networks:build must be importable from here"),
        (["my_networks:missing"], "my_networks:missing must exist, but there is no 'missing'"),
        (["my_networks:number"], "must be an nn.Module or build one, got int"),
        (["my_networks:fails"], "my_networks:fails must build a model, got RuntimeError: no such config"),
        (["my_networks:build", "--size", "big"], "--size must be a side or HEIGHTxWIDTH"),
        (["my_networks:build", "--verify"], "the model must run on verify's arguments"),
        (["my_networks:build", "--size", "8"], "my_networks:build must take images 1x3x8x8"),
    ],
)
def test_refused_in_a_line(run, words, message):
    status, text, errors = run(*words)
    assert status == 1 and errors.count("\n") == 1 and message in errors
