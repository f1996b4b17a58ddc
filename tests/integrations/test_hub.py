"""Models in folders of the Hugging Face hub's form, in its cache, and on a hub that runs on this machine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
import yaml

from segnext import create_model
from segnext.integrations.hub import from_pretrained, save_pretrained
from segnext.models import MSCAN, SegNeXt, build
from segnext.weights import save
from tests.integrations.hub_server import COMMIT, hub

ROOT = Path(__file__).resolve().parents[2]
METADATA = {
    "classes": ["road", "car | van", "sky"],
    "palette": [[1, 2, 3], [4, 5, 6], [7, 8, 9]],
    "preprocessing": {"mean": [1.5, 2.0, 3.0], "std": [4.0, 5.0, 6.0], "short_side": 64},
    "recipe": {
        "data": "streets",
        "steps": 10,
        "licence": "Apache-2.0",
        "terms": "The photographs are private.",
    },
    "metrics": {"miou": 0.5, "class_iou": {"road": 0.5}},
}
PUSH_AND_LOAD = """
import json, sys, torch
from segnext import create_model
from segnext.integrations.hub import from_pretrained, push_to_hub
model = create_model(weights=sys.argv[1])
address = push_to_hub(model, "user/streets", private=True, token="hf_of_a_test", license="mit")
loaded = from_pretrained("user/streets", token=False)
same = all(torch.equal(value, loaded.state_dict()[name]) for name, value in model.state_dict().items())
print(json.dumps([address, same, loaded.metadata == model.metadata]))
"""
LOAD = """
import sys
from segnext.integrations.hub import from_pretrained
try:
    print(from_pretrained(sys.argv[1], filename=sys.argv[2]).config.num_classes)
except FileNotFoundError as error:
    print(error)
"""

needs_hub = pytest.mark.skipif(find_spec("huggingface_hub") is None, reason="pip install 'segnext[hub]'")


@pytest.fixture
def model() -> SegNeXt | MSCAN:
    torch.manual_seed(0)
    made = build("segnext_t", num_classes=3)
    made.metadata = METADATA
    return made


def run(code: str, *words: object, home: Path, **variables: str) -> str:
    """Run code in a process of its own, because the hub's package reads its variables when it is imported."""
    environment = {
        key: value
        for key, value in os.environ.items()
        if not key.startswith("HF_") and "proxy" not in key.lower()
    }
    own = {"HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1", **variables}
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, words)],
        cwd=ROOT,
        env={**environment, **own},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.strip()


def test_a_folder(model: SegNeXt | MSCAN, tmp_path: Path) -> None:
    save_pretrained(model, tmp_path / "folder")
    assert sorted(path.name for path in (tmp_path / "folder").iterdir()) == [
        "README.md",
        "config.json",
        "model.safetensors",
    ]
    loaded = from_pretrained(tmp_path / "folder")
    assert loaded.metadata == METADATA
    assert all(torch.equal(value, loaded.state_dict()[name]) for name, value in model.state_dict().items())
    other = from_pretrained(tmp_path / "folder", num_classes=5, head="reinit")
    assert other.config.num_classes == 5
    config = json.loads((tmp_path / "folder" / "config.json").read_text())
    assert config["architecture"] == "segnext_t" and config["model"]["num_classes"] == 3
    assert config["id2label"]["1"] == "car | van"


def test_a_folder_without_weights(tmp_path: Path) -> None:
    with pytest.raises(
        FileNotFoundError, match=r"must be a folder with model\.safetensors, got '.*'; save_pretrained"
    ):
        from_pretrained(tmp_path)


def test_the_card(model: SegNeXt | MSCAN, tmp_path: Path) -> None:
    save_pretrained(model, tmp_path)
    _, head, body = (tmp_path / "README.md").read_text().split("---\n", 2)
    known = yaml.safe_load(head)
    assert (known["library_name"], known["license"]) == ("segnext", "apache-2.0")
    (result,) = known["model-index"][0]["results"]
    assert result["dataset"]["name"] == "streets" and result["metrics"][0]["value"] == 50.0
    for part in (
        "0 road, 1 car | van, 2 sky",
        "| short_side | 64 |",
        "The photographs are private.",
        "| steps | 10 |",
    ):
        assert part in body
    assert "class_iou" not in body


def test_a_card_says_nothing_that_is_not_known(tmp_path: Path) -> None:
    save_pretrained(build("mscan_t", num_classes=2), tmp_path)
    _, head, body = (tmp_path / "README.md").read_text().split("---\n", 2)
    assert yaml.safe_load(head).keys() == {"library_name", "pipeline_tag", "tags"}
    assert "not stated in their file" in body and "## Accuracy" not in body and "Predictor" not in body
    save_pretrained(build("mscan_t", num_classes=2), tmp_path, license="MIT")
    assert "license: mit\n" in (tmp_path / "README.md").read_text()


@needs_hub
def test_the_cache_of_the_hub(model: SegNeXt | MSCAN, tmp_path: Path) -> None:
    repository = tmp_path / "hub" / "models--user--streets"
    snapshot = repository / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(COMMIT)
    save(model, snapshot / "model.safetensors")
    said = run(LOAD, "user/streets", "model.safetensors", home=tmp_path, HF_HUB_OFFLINE="1")
    assert said == "3"
    said = run(LOAD, "user/streets", "other.pth", home=tmp_path, HF_HUB_OFFLINE="1")
    expected = "a repository with other.pth that can be reached, got 'user/streets' ("
    assert said.startswith(f"from_pretrained: source must be a folder or {expected}")
    assert "\n" not in said


@needs_hub
def test_a_hub_on_this_machine(model: SegNeXt | MSCAN, tmp_path: Path) -> None:
    save(model, tmp_path / "mine.safetensors")
    with hub() as (url, files, asked):
        said = json.loads(
            run(PUSH_AND_LOAD, tmp_path / "mine.safetensors", home=tmp_path, HF_ENDPOINT=url).splitlines()[-1]
        )
    assert said == [f"{url}/user/streets/commit/{COMMIT}", True, True]
    assert sorted(files) == [
        f"user/streets/{name}" for name in ("README.md", "config.json", "model.safetensors")
    ]
    assert b"license: mit\n" in files["user/streets/README.md"]
    assert b'from_pretrained("user/streets")' in files["user/streets/README.md"]
    (tmp_path / "copy.safetensors").write_bytes(files["user/streets/model.safetensors"])
    assert create_model(weights=tmp_path / "copy.safetensors").metadata == METADATA
    assert any(request.startswith("GET /user/streets/resolve/") for request in asked)
