"""On the oldest Python of the project the arguments of commands are the same, and `make` finds its packages."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
OLDEST = re.findall(r'^requires-python = ">=([\d.]+)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)[
    0
]

# Every command, with the names, number and help of its parameters.
LISTING = """
import json
import typer
from segnext.cli.main import app

def parameters(command):
    own = [[p.name, p.opts, p.required, p.nargs, getattr(p, "help", None)] for p in command.params]
    return [own, {name: parameters(inner) for name, inner in getattr(command, "commands", {}).items()}]

print(json.dumps(parameters(typer.main.get_command(app))))
"""


def listing(python: str | Path, **changed: str) -> object:
    done = subprocess.run(
        [python, "-c", LISTING],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)} | changed,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def pip(python: Path, *words: str | Path) -> subprocess.CompletedProcess[str]:
    command = [python, "-m", "pip", "--disable-pip-version-check", "install", "-q", *words]
    return subprocess.run(command, capture_output=True, text=True)


@pytest.fixture(scope="module")
def oldest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an environment of the oldest Python with what the command line needs before it imports torch."""
    folder = tmp_path_factory.mktemp("oldest") / "environment"
    pyenv = os.environ | {"PYENV_VERSION": OLDEST}  # pyenv's python3.10 asks which of its versions is meant
    try:
        made = subprocess.run([f"python{OLDEST}", "-m", "venv", folder], env=pyenv, capture_output=True)
    except FileNotFoundError:
        pytest.skip(f"needs python{OLDEST}")
    if made.returncode:
        pytest.skip(f"python{OLDEST} makes no environment")
    python = folder / "bin/python"
    if (done := pip(python, "typer", "rich")).returncode:
        pytest.skip(f"pip installs no typer there: {done.stderr[-300:]}")
    return python


def test_commands_have_the_same_parameters(oldest: Path) -> None:
    assert listing(oldest) == listing(sys.executable)


def test_the_packages_of_the_developer_exist_there(oldest: Path, tmp_path: Path) -> None:
    """Without those that they need in turn, torch among them, which has gigabytes."""
    tomllib = pytest.importorskip("tomllib", reason="needs Python 3.11")
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    wanted = tmp_path / "requirements.txt"
    wanted.write_text(
        "\n".join({line for name in ("test", "lint", "bench", "docs") for line in extras[name]})
    )
    done = pip(oldest, "--dry-run", "--no-deps", "-r", wanted)
    assert done.returncode == 0, done.stderr[-1000:]
