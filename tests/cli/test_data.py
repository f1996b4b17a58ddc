"""`segnext data prepare` says what it did, what failed and what comes next."""

import json
import re
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from segnext.cli.main import main
from tests.cli.commands import ended


def run(capsys, *words):
    status = ended("data", *words)
    output = capsys.readouterr()
    return status or 0, output.out, output.err


@pytest.fixture
def photos(tmp_path):
    for name in ("a", "b", "c"):
        Image.fromarray(np.zeros((40, 60, 3), np.uint8)).save(tmp_path / f"{name}.png")
        box = {"label": "car", "shape_type": "rectangle", "points": [[3, 3], [20, 20]]}
        content = {"imageWidth": 60, "imageHeight": 40, "shapes": [box]}
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    return tmp_path


def test_prepare_and_the_command_that_it_names(photos, capsys):
    words = ("prepare", "labelme", "--root", photos, "--workers", 2)
    status, text, errors = run(capsys, *words)
    assert (status, errors) == (0, "")
    assert text == f"labelme: 3 written, 0 skipped, 0 failed\nnext: segnext doctor {photos}/data.yaml\n"
    assert run(capsys, *words)[1].startswith("labelme: 0 written, 3 skipped")
    main_words = text.splitlines()[1].removeprefix("next: segnext ").split()
    try:
        main(main_words)
    except SystemExit as exit_:
        assert not exit_.code
    assert re.search(r"1 *│ car", capsys.readouterr().out)


def test_a_failure_is_named_and_is_the_status(photos, capsys):
    (photos / "b.json").write_text("{")
    status, text, errors = run(capsys, "prepare", "labelme", "--root", photos, "--workers", 1)
    assert status == 1 and text == "labelme: 2 written, 0 skipped, 1 failed\n"
    assert errors.startswith(f"{photos}/b.json: ") and errors.count("\n") == 1


def test_results_elsewhere_need_the_images(tmp_path, capsys):
    raw = tmp_path / "in/stuffthingmaps/val2017/1.png"
    raw.parent.mkdir(parents=True)
    Image.fromarray(np.zeros((4, 5), np.uint8)).save(raw)
    (tmp_path / "in/images").mkdir()
    words = ("prepare", "coco_stuff", "--root", tmp_path / "in", "-o", tmp_path / "out", "--workers", 1)
    status, text, errors = run(capsys, *words)
    assert status == 0 and errors == "segnext: note: stuffthingmaps/train2017 is not there: it is left out\n"
    assert f"then: link {tmp_path}/in/images to {tmp_path}/out/images\n" in text
    assert text.endswith(f"next: segnext doctor coco_stuff --root {tmp_path}/out\n")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["ade20k"], "NAME must be one of"),
        (["labelme", "--background", "7"], "background must be 0 or 255, got 7"),
        (["cityscapes"], "unpack gtFine_trainvaltest.zip"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_errors_have_one_line(tmp_path, capsys, words, expected):
    status, text, errors = run(capsys, "prepare", *words, "--root", tmp_path)
    assert (status, text) == (1, "") and expected in errors
    assert errors.startswith("segnext: data prepare: ") and errors.count("\n") == 1


@pytest.mark.parametrize("words", [(), ("prepare",)], ids=["data", "prepare"])
def test_help_has_an_example(capsys, words):
    status, text, _ = run(capsys, *words, "--help")
    assert status == 0 and "segnext data prepare" in text and "Example" in text


def test_help_imports_nothing_heavy():
    program = (
        "import sys, segnext.cli.main as m\n"
        "try: m.main(['data', 'prepare', '--help'])\n"
        "except SystemExit: print(*set(sys.modules) & {'numpy', 'torch', 'PIL', 'scipy', 'yaml'}, file=sys.stderr)"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stderr.split() == []
