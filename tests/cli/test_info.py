"""`segnext info` prints the right numbers, takes names of every kind, and refuses in one line."""

import pytest

from segnext import segnext_t
from segnext.cli.main import main
from segnext.weights import save


@pytest.fixture
def run(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")

    def call(*words: object) -> tuple[int, str, str]:
        status = 0
        try:
            main(["info", *map(str, words)])
        except SystemExit as exit_:
            status = int(exit_.code or 0)
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return call


@pytest.mark.parametrize("name", ["b", "segnext_b"])
def test_b(run, name):
    status, text, _ = run(name, "--size", 512)
    assert status == 0
    for expected in ("segnext_b on 512x512", "27,636,310", "34.663 G", "1x320x32x32", "1x150x64x64"):
        assert expected in text
    for part in ("stem", "stage 1", "stage 4", "decoder", "total"):
        assert part in text


def test_size_classes_and_batch(run):
    _, text, _ = run("t", "--size", "1024x2048", "--classes", 19, "--batch", 2)
    assert "2 images of 1024x2048" in text and "2x19x128x256" in text and "100.258 G" in text


def test_a_classifier(run):
    _, text, _ = run("mscan_t", "--size", 224)
    assert "4,160,584" in text and "1x1000" in text and "head" in text and "decoder" not in text


def test_a_checkpoint_with_metadata(run, tmp_path):
    metadata = {"classes": ["road", "sky"], "metrics": {"miou": 0.61, "class_iou": {"road": 0.9}}}
    save(segnext_t(num_classes=2), tmp_path / "w.safetensors", metadata)
    status, text, _ = run(tmp_path / "w.safetensors", "--size", 64)
    assert status == 0 and "1x2x8x8" in text
    assert "2 classes: road, sky" in text and "miou 0.61" in text


def test_the_list(run):
    status, text, _ = run()
    assert status == 0 and "segnext_l" in text and "48,926,550" in text and "mscan_s" in text


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["xyz"], "'xyz' is no architecture"),
        (["t", "--size", "big"], "--size must be a side or HEIGHTxWIDTH"),
        (["t", "--size", "0"], "--size must be from 1 to 100,000 pixels, got '0'"),
        (["t", "--size", "9" * 20], "--size must be from 1 to 100,000 pixels, got '999"),
        (["t", "--size", "1x2x3"], "1x2x3"),
    ],
)
def test_refused_in_a_line(run, words, message):
    status, text, errors = run(*words)
    assert (status, text) == (1, "") and errors.count("\n") == 1 and message in errors
