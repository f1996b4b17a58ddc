"""The command has help that teaches, errors of one line, and starts quickly."""

import subprocess
import sys
import warnings

import pytest
import typer
from PIL import Image

from segnext import __version__
from segnext.cli import main as cli
from segnext.data.depth import ImageWarning
from tests.cli.commands import ended


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[object, str, str]:
    status = ended(*words)
    output = capsys.readouterr()
    return status, output.out, output.err


@pytest.mark.parametrize("command", [(), *((name,) for name in cli.COMMANDS)], ids=" ".join)
def test_help_has_an_example(capsys, command):
    status, text, _ = run(capsys, *command, "--help")
    assert status == 0
    assert f"segnext {' '.join(command)}".strip() in text and "Example" in text


def test_version(capsys):
    assert run(capsys, "--version") == (0, f"segnext {__version__}\n", "")


def test_unknown_command(capsys):
    status, _, errors = run(capsys, "segment")
    assert status == 2 and "segment" in errors


def test_an_expected_error_is_one_line(capsys, tmp_path):
    status, output, errors = run(capsys, "doctor", str(tmp_path / "none.yaml"))
    assert (status, output) == (1, "")
    assert errors.startswith("segnext: ") and errors.count("\n") == 1 and "none.yaml" in errors


def test_traceback_on_request(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.yaml"):
        cli.main(["doctor", str(tmp_path / "none.yaml"), "--traceback"])


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("what: must be this"), "what: must be this"),
        (FileNotFoundError(2, "No such file or directory", "a.jpg"), "a.jpg: No such file or directory"),
        (FileNotFoundError("data: no such file"), "data: no such file"),
        (MemoryError(), "MemoryError"),
        (RuntimeError("CUDA error\n  at a.cpp\n\n  at b.cpp"), "CUDA error at a.cpp  at b.cpp"),
        (
            FileNotFoundError(2, "No such file or directory", "a\nb.jpg"),
            r"a\nb.jpg: No such file or directory",
        ),
        (ValueError("sky\x1b[2J\0"), r"sky\x1b[2J\x00"),
        (NotImplementedError("no backend:\n  cpu: not built"), "no backend:\n  cpu: not built"),
    ],
)
def test_one_line(error, line):
    assert cli.message_of(error) == line


def test_a_warning_of_ours_is_one_line(capsys, monkeypatch):
    def warn(*_: object, **__: object) -> None:
        warnings.warn("all is well", ImageWarning, stacklevel=1)

    monkeypatch.setattr(cli, "app", warn)
    cli.main([])
    assert capsys.readouterr().err == "segnext: note: all is well\n"


def test_the_home_is_known_in_every_path(capsys, tmp_path, monkeypatch):
    """No shell expands the ~ of --output=~/out."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (32, 32)).save("a.png")
    Image.new("L", (32, 32), 1).save("label.png")
    text = f"path: .\nclasses: {[f'c{index}' for index in range(11)]}\nval: {{images: i, labels: l}}\n"
    (tmp_path / "data.yaml").write_text(text)
    for folder, name in (("i", "a.png"), ("l", "label.png")):
        (tmp_path / folder).mkdir()
        (tmp_path / name).rename(tmp_path / folder / "a.png")
    for line in (
        "predict ~/i/a.png --output=~/out --short-side=0",
        "val ~/data.yaml --root=~ --weights=camvid --short-side=0 --output=~/val.json",
        "convert camvid --output=~/weights.safetensors",
    ):
        status, _, errors = run(capsys, *line.split())
        assert not status, errors
    written = {path.name for path in tmp_path.iterdir()}
    assert written == {"data.yaml", "i", "l", "out", "val.json", "weights.safetensors"}


def test_defects_are_not_hidden(monkeypatch):
    def broken(*_: object, **__: object) -> None:
        raise KeyError("a defect")

    monkeypatch.setattr(cli, "app", broken)
    with pytest.raises(KeyError):
        cli.main([])


def test_starting_imports_nothing_heavy():
    program = "import sys, segnext.cli.main; print(*sorted(set(sys.modules) & set(sys.argv[1:])))"
    heavy = [
        "torch",
        "PIL",
        "yaml",
        "safetensors",
        "segnext.predict.predictor",
        "segnext.training.loop",
        "segnext.data.config",
    ]
    result = subprocess.run(
        [sys.executable, "-c", program, *heavy], capture_output=True, text=True, check=True
    )
    assert result.stdout.split() == []


def test_commands_are_typer_commands():
    names = [command.callback.__name__ for command in cli.app.registered_commands if command.callback]
    assert tuple(names) == cli.COMMANDS
    assert isinstance(cli.app, typer.Typer)
