"""Models on the Hugging Face hub, and in folders of its form: one file of weights, config.json and a model card.

    from segnext.integrations.hub import from_pretrained, push_to_hub, save_pretrained
    model = from_pretrained("user/streets")            # or a folder
    save_pretrained(model, "folder")                   # model.safetensors, config.json, README.md
    push_to_hub(model, "user/streets", private=True)

The file of weights is that of `segnext.weights.save`: its header says all that is needed, and every command takes it.
Folders need no other package; the hub needs `pip install 'segnext[hub]'`. The models of transformers
(`segnext.integrations.transformers`) have another config.json and other names.
"""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any

from segnext.atomic import replace_text
from segnext.create import create_model
from segnext.integrations.hub_card import card
from segnext.integrations.requirements import expect_package
from segnext.models import MSCAN, SegNeXt
from segnext.one_line import one_line
from segnext.weights.identify import overrides_of
from segnext.weights.saving import save

WEIGHTS, CONFIG, CARD = "model.safetensors", "config.json", "README.md"
LEAST_VERSION = "0.30"


def from_pretrained(
    source: str | os.PathLike[str],
    *,
    filename: str = WEIGHTS,
    revision: str | None = None,
    token: str | bool | None = None,
    **options: Any,
) -> SegNeXt | MSCAN:
    """Build a model from a folder or from a repository of the hub.

    Args:
        source: a folder, or a repository such as ``"user/streets"``, whose file is kept in the hub's own cache.
        filename: the file of weights, in any layout that `segnext.create_model` reads.
        revision: branch, tag or commit of the repository.
        token: for private repositories; by default the one that ``hf auth login`` stored.
        **options: of `segnext.create_model`, for example ``num_classes=3, head="reinit"``.

    Raises:
        FileNotFoundError: neither a folder nor a repository with such a file, or none that can be reached.
        ImportError: the hub's package is not installed. ValueError: see `segnext.create_model`.
    """
    folder = Path(source).expanduser()
    if folder.is_dir():
        path = folder / filename
        if not path.is_file():
            raise FileNotFoundError(
                f"from_pretrained: source must be a folder with {filename}, got {one_line(repr(str(source)))}; "
                "save_pretrained writes one, filename=... names another file"
            )
    else:
        path = _downloaded(str(source), filename, revision, token)
    return create_model(weights=path, **options)


def save_pretrained(
    model: SegNeXt | MSCAN, folder: str | os.PathLike[str], *, license: str | None = None
) -> None:
    """Write a model as the hub keeps it: weights, config.json and README.md, the model card. Files there are replaced.

    Args:
        model: a SegNeXt or MSCAN; its ``metadata`` gives classes, accuracy and terms.
        folder: made if it is not there.
        license: of the weights, as the hub writes it ("apache-2.0"); by default what the metadata says, else none.

    Raises:
        TypeError, ValueError: see `segnext.weights.save`. OSError: the folder cannot be written.
    """
    _write(model, Path(folder).expanduser(), license, "user/name")


def _write(model: SegNeXt | MSCAN, folder: Path, license: str | None, repository: str) -> None:
    save(model, folder / WEIGHTS)
    config: dict[str, Any] = {
        "library_name": "segnext",
        "architecture": model.config.architecture,
        "model": overrides_of(model.config),
    }
    names = model.metadata.get("classes")
    if names:
        config["id2label"] = dict(enumerate(names))
    config |= {key: model.metadata[key] for key in ("palette", "preprocessing") if key in model.metadata}
    replace_text(folder / CONFIG, json.dumps(config, indent=2) + "\n")
    replace_text(folder / CARD, card(model, license, repository))


def push_to_hub(
    model: SegNeXt | MSCAN,
    repository: str,
    *,
    private: bool | None = None,
    token: str | bool | None = None,
    revision: str | None = None,
    message: str = "Upload a SegNeXt model",
    license: str | None = None,
) -> str:
    """Put a model into a repository of the hub, which is made if it is not there.

    Args:
        model: a SegNeXt or MSCAN.
        repository: such as ``"user/streets"``.
        private: of a new repository.
        token: that may write; by default the one that ``hf auth login`` stored.
        revision: the branch.
        message: of the commit.
        license: see `save_pretrained`.

    Returns:
        The address of the commit.

    Raises:
        OSError: the hub refuses, or cannot be reached. ImportError: its package is not installed.
    """
    expect_package("huggingface_hub", LEAST_VERSION, "hub")
    from huggingface_hub import HfApi

    api = HfApi(token=token)
    with tempfile.TemporaryDirectory() as folder:
        _write(model, Path(folder), license, repository)
        try:
            api.create_repo(repository, private=private, exist_ok=True)
            commit = api.upload_folder(
                repo_id=repository, folder_path=folder, revision=revision, commit_message=message
            )
        except Exception as error:  # of requests, of httpx or of the hub's own, as its version has it
            raise OSError(
                f"push_to_hub: repository must be one that you may write to, got {one_line(repr(repository))} "
                f"({_reason(error)}); log in with `hf auth login`"
            ) from error
    return str(commit.commit_url)


def _downloaded(repository: str, filename: str, revision: str | None, token: str | bool | None) -> Path:
    expect_package("huggingface_hub", LEAST_VERSION, "hub")
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(repository, filename, revision=revision, token=token))
    except Exception as error:  # see push_to_hub
        raise FileNotFoundError(
            f"from_pretrained: source must be a folder or a repository with {filename} that can be reached, got "
            f"{one_line(repr(repository))} ({_reason(error)}); filename=... names another file, token=... opens "
            "private ones"
        ) from error


def _reason(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return one_line(lines[0] if lines else type(error).__name__, 200)
