"""Every code block of README.md, CONTRIBUTING.md and docs/ runs, or an entry of exempt.yaml says why it does not."""

from __future__ import annotations

import fnmatch
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import typer
import yaml

import segnext
from segnext.cli.main import app
from segnext.data.config import load_data_config
from tests import summary
from tests.cli.commands import ended
from tests.docs.blocks import PAGES, ROOT, Block, blocks_of, commands, segnext_words
from tests.docs.prepared import prepare, shortened

EXEMPT: list[dict[str, str]] = yaml.safe_load((ROOT / "tests/docs/exempt.yaml").read_text())
SHOWN = ("text", "bibtex")  # output, drawings of letters, formulas: nothing to run
BLOCKS = [block for page in PAGES for block in blocks_of(page)]
SHELL = [block for block in BLOCKS if block.language == "bash"]


def exemption(block: Block, line: str = "") -> dict[str, str] | None:
    """Return the entry of exempt.yaml for a block, or for a command line of one."""
    for entry in EXEMPT:
        fits = entry["language"] == block.language
        if (
            fits
            and fnmatch.fnmatchcase(block.page, entry.get("page", "*"))
            and fnmatch.fnmatchcase(line, entry.get("begins", "*"))
        ):
            return entry
    return None


def expect_known(words: list[str]) -> None:
    """Parse a command line of `segnext` without running it: a wrong command, option or value raises."""
    command: Any = typer.main.get_command(app)
    context = command.make_context("segnext", list(words))
    while hasattr(command, "resolve_command"):  # a group
        if not (rest := [*context._protected_args, *context.args]):
            return
        name, command, rest = command.resolve_command(context, rest)
        context = command.make_context(name, list(rest), parent=context)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder to run in, whose modules can be imported; what a command sets in this process is undone."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    threads, modules = torch.get_num_threads(), set(sys.modules)
    yield tmp_path
    torch.set_num_threads(threads)
    for name in set(sys.modules) - modules:
        if getattr(sys.modules[name], "__file__", None) and str(tmp_path) in str(sys.modules[name].__file__):
            del sys.modules[name]


@pytest.mark.parametrize("block", BLOCKS, ids=str)
def test_the_language_is_named(block: Block) -> None:
    known = {"python", "bash", "yaml", *SHOWN} | {entry["language"] for entry in EXEMPT}
    assert block.language in known, f"{block}: a block must be ```python, ```bash, ..., or ```text"


PAGES_WITH_CODE = sorted({block.page for block in BLOCKS if block.language in ("python", "bash")})


SERVICE = "127.0.0.1:8000"  # where the documents say that `segnext serve` is


@pytest.fixture(scope="module")
def service() -> Iterator[str]:
    """Host and port of a service that has the shipped weights."""
    pytest.importorskip("fastapi", reason="needs pip install '.[serve]'")
    from tests.serve.conftest import running

    with running({"camvid": segnext.Predictor("camvid", device="cpu")}) as there:
        yield there.url.removeprefix("http://")


@pytest.mark.parametrize("page", PAGES_WITH_CODE)
def test_page_runs(page: str, folder: Path, request: pytest.FixtureRequest) -> None:
    """The code and the command lines of a page run in the order shown, in one folder."""
    blocks = [block for block in BLOCKS if block.page == page and block.language in ("python", "bash")]
    if any(SERVICE in block.code for block in blocks):
        there = request.getfixturevalue("service")
        blocks = [replace(block, code=block.code.replace(SERVICE, there)) for block in blocks]
    prepare(folder, "\n".join(block.code for block in blocks))
    for block in blocks:
        if _runs_python(block) if block.language == "python" else _runs_commands(block):
            summary.count("code blocks of the documents, executed")
        else:
            summary.count("code blocks of the documents that are not run, for a reason in exempt.yaml")


def _runs_python(block: Block) -> bool:
    """Execute a block, unless it is exempt."""
    if exemption(block):
        return False
    exec(compile(block.code, str(block), "exec"), {"__name__": "__main__"})
    return True


def _runs_commands(block: Block) -> bool:
    """Run the command lines that are not exempt, with options that make them short; whether there was one."""
    has_run = False
    for words in commands(block):
        line, own = shlex.join(words), segnext_words(words)
        if own is not None:
            expect_known(own)
            summary.count("command lines of the documents whose command and options exist")
        if exemption(block, line):
            continue
        if words[0] == "curl":
            status: object = subprocess.run([*words, "--fail", "--silent", "--show-error"]).returncode
        else:
            assert own is not None, f"{block}: {line}: neither run nor in exempt.yaml"
            status = ended(*shortened(own))
        assert status == 0, f"{block}: {line}: exit status {status}"
        summary.count("command lines of the documents, run")
        has_run = True
    return has_run


@pytest.mark.parametrize("block", [block for block in BLOCKS if block.language == "yaml"], ids=str)
def test_yaml_is_a_data_set(block: Block, folder: Path) -> None:
    for split in ("train", "val"):
        for kind in ("images", "labels"):
            (folder / kind / split).mkdir(parents=True)
            (folder / kind / split / "one_ids.png").touch()  # one of the layouts of docs/model.md
    (folder / "mine.yaml").write_text(block.code)
    assert load_data_config(folder / "mine.yaml").classes
    summary.count("code blocks of the documents, executed")


def test_every_exemption_is_in_use() -> None:
    lines = [(block, shlex.join(words)) for block in SHELL for words in commands(block)]
    others = [(block, "") for block in BLOCKS if block.language != "bash"]
    used = [entry for block, line in [*lines, *others] if (entry := exemption(block, line)) is not None]
    assert [entry for entry in EXEMPT if entry not in used] == []


@pytest.mark.parametrize(
    "words", ["predict --weigths camvid photo.jpg", "pretict photo.jpg", "export onyx camvid", "train"]
)
def test_a_wrong_command_line_is_seen(words: str) -> None:
    with pytest.raises(typer.TyperException):
        expect_known(words.split())


def test_commands_are_found(tmp_path: Path) -> None:
    (tmp_path / "page.md").write_text(
        "- a list\n\n  ```bash\n  $ segnext predict a.jpg \\\n      -o out   # a comment\n"
        "  torchrun -m segnext val x\n  ```\n\nText.\n\n    indented\n"
    )
    shell, indented = blocks_of(tmp_path / "page.md")
    assert [segnext_words(words) for words in commands(shell)] == [
        ["predict", "a.jpg", "-o", "out"],
        ["val", "x"],
    ]
    assert (indented.language, indented.code) == ("", "indented\n")
