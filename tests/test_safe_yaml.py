"""Tests that YAML files are read in bounded time and memory, and refused in one line."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from segnext.data.config import load_data_config
from segnext.safe_yaml import read_yaml

HEAD = "path: .\ntrain: {images: a, labels: b}\nclasses: [a, b]\n"


def bomb(first: str, level: str, repeat: int = 9) -> str:
    """Return anchors of which each next one holds the one before nine times."""
    lines = [f"x0: &a0 {first}"]
    for index in range(1, 12):
        lines.append(f"x{index}: &a{index} {level.format(', '.join([f'*a{index - 1}'] * repeat))}")
    return "\n".join(lines)


BAD = {
    "alias-bomb": (bomb("[1, 2]", "[{}]"), "at most 200,000 values, aliases .* counted, got more"),
    "merge-bomb": (bomb("{a: 1}", "{{<<: [{}]}}"), "at most 200,000 values"),
    "holds-itself": ("palette: &a [*a]", "at most 200,000 values"),
    "deep-lists": ("palette: " + "[" * 100_000, "deep|depth|level"),
    "deep-mappings": ("palette: " + "{a: " * 100_000, "at most 20 deep, got more"),
    "deep-keys": ("? " * 50_000, "at most 20 deep, got more"),
    "wide": ("palette: [" + "1," * 450_000 + "]", "at most 200,000 values, got more"),
    "large": ("#" * 2_200_000, "at most 2,097,152 bytes, got"),
    "long": ("name: " + "a" * 5000, "at most 4096 letters, got 5,000"),
    "long-number": ("short_side: 1" + ":59" * 200_000, "at most 4096 letters"),
    "lines": ('classes: ["a\\nb", c]', r"text must have one line, got a\\nb"),
    "key-of-lines": ('"a\\nb": 1', r"text must have one line, got a\\nb"),
    "escape": ('classes: ["\\e[2J", c]', r"text must have one line, got \\x1b\[2J"),
    "right-to-left": ('classes: ["\\u202egnp", c]', r"text must have one line, got \\u202egnp"),
    "twice": ("label_map: {0: 1, 1: 1, 0: 0}", "each key must be there once, got 0 twice"),
    "twice-as-other-numbers": ("label_map: {1: 0, 1.0: 1}", "each key must be there once, got 1.0 twice"),
    "twice-as-a-switch": ("label_map: {1: 0, true: 1}", "each key must be there once, got true twice"),
    "octal": ("label_map: {010: 1, 8: 0}", "must be decimal, without leading zeros, got 010; quote it"),
    "hexadecimal": ("short_side: 0x10", "must be decimal, without leading zeros, got 0x10; quote it"),
    "base-60": ("name: 1:30", "must be decimal, .*, got 1:30; put a space behind the colon of a key"),
    "date": ("name: 2001-99-99", "month must be in 1..12"),
    "program": ("name: !!python/object/apply:os.system [echo]", "could not determine a constructor"),
    "list-as-key": ("? [a, b]\n: 1", "unhashable key"),
    "tab": ("\tx: 1", "cannot start any token"),
}


@pytest.mark.parametrize("case", BAD)
def test_refused_in_one_line_at_once(case: str, tmp_path: Path) -> None:
    text, message = BAD[case]
    path = tmp_path / "da\nta.yaml"
    path.write_text(text, encoding="utf-8")
    clock = time.process_time()
    with pytest.raises(ValueError, match=message) as error:
        read_yaml(path)
    assert time.process_time() - clock < 8
    assert r"da\nta.yaml must " in str(error.value) and len(str(error.value).splitlines()) == 1
    assert len(str(error.value)) < 700


def test_no_text_at_all(tmp_path: Path) -> None:
    path = tmp_path / "data.yaml"
    path.write_bytes(b"classes: [\xe9]")
    with pytest.raises(ValueError, match="data.yaml must be YAML; 'utf-8' codec can't decode byte 0xe9"):
        read_yaml(path)


def test_what_people_write_is_read(tmp_path: Path) -> None:
    path = tmp_path / "data.yaml"
    path.write_text(
        "base: &base {images: a, short: 1.5}\ntrain: {<<: *base, labels: b}\n"
        "classes: [Straße, 道 路, \u0645\u06cc\u200c\u062e]\n"
        "ids: {0: 1, 1-3: 2}\nflag: yes\nlist: &l [1, [2, 3]]\nagain: *l\nnone:\n",
        encoding="utf-8",
    )
    assert read_yaml(path) == {
        "base": {"images": "a", "short": 1.5},
        "train": {"images": "a", "short": 1.5, "labels": "b"},
        "classes": ["Straße", "道 路", "\u0645\u06cc\u200c\u062e"],
        "ids": {0: 1, "1-3": 2},
        "flag": True,
        "list": [1, [2, 3]],
        "again": [1, [2, 3]],
        "none": None,
    }
    path.write_text("# nothing\n")
    assert read_yaml(path) is None


def test_a_data_yaml_is_read_so(tmp_path: Path) -> None:
    path = tmp_path / "data.yaml"
    path.write_text(HEAD + BAD["alias-bomb"][0].replace("x11:", "palette:"))
    with pytest.raises(ValueError, match=r"^data: .*data.yaml must be YAML; it must have at most") as error:
        load_data_config(path)
    assert len(str(error.value).splitlines()) == 1
