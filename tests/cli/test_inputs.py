"""A command line names images, and their results get names of their own."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from segnext.cli._inputs import RESULT_ENDINGS, find_images, result_names


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name in ("b.jpg", "a.PNG", "notes.txt", "sub/c.tif", "sub/deep/d.webp", "odd[1].jpg", "empty/x.txt"):
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    return tmp_path


def names(tree: Path, *arguments: str) -> list[str]:
    files, problems, _ = find_images([str(tree / argument) for argument in arguments])
    assert not problems
    return [file.relative_to(tree).as_posix() for file in files]


def test_files_keep_their_order_and_any_suffix(tree):
    assert names(tree, "notes.txt", "b.jpg", "a.PNG") == ["notes.txt", "b.jpg", "a.PNG"]


def test_a_missing_file_is_left_to_the_reader(tree):
    assert names(tree, "none.jpg") == ["none.jpg"]


def test_a_folder_means_the_images_in_it(tree):
    (
        tree / "._b.jpg"
    ).touch()  # some systems put such a file beside each file that is copied to a foreign disk
    assert names(tree, ".") == ["a.PNG", "b.jpg", "odd[1].jpg"]


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("*.jpg", ["b.jpg", "odd[1].jpg"]),
        ("*", ["a.PNG", "b.jpg", "odd[1].jpg"]),
        ("**", ["a.PNG", "b.jpg", "odd[1].jpg", "sub/c.tif", "sub/deep/d.webp"]),
        ("sub/**/*.webp", ["sub/deep/d.webp"]),
        ("[ab].*", ["a.PNG", "b.jpg"]),
    ],
)
def test_patterns(tree, pattern, expected):
    assert names(tree, pattern) == expected


def test_a_file_whose_name_looks_like_a_pattern(tree):
    assert names(tree, "odd[1].jpg") == ["odd[1].jpg"]


def test_each_file_once(tree):
    assert names(tree, "b.jpg", ".", "*.jpg", "sub/../b.jpg") == ["b.jpg", "a.PNG", "odd[1].jpg"]


def test_home_is_expanded(tree, monkeypatch):
    monkeypatch.setenv("HOME", str(tree))
    assert find_images(["~/b.jpg", "~/sub"])[0] == [tree / "b.jpg", tree / "sub/c.tif"]


def test_nothing_found_is_said_for_each(tree):
    files, problems, _ = find_images([str(tree / "empty"), str(tree / "*.bmp"), str(tree / "b.jpg")])
    assert files == [tree / "b.jpg"]
    assert len(problems) == 2 and all("\n" not in problem for problem in problems)
    assert "holds no image" in problems[0] and "no image matches" in problems[1]


def test_links_in_a_circle_end(tree):
    """`glob` would search 2 ** 40 folders here."""
    for link, target in (
        ("sub/up", ".."),
        ("sub/again", "."),
        ("self.jpg", "self.jpg"),
        ("elsewhere", "sub/deep"),
    ):
        (tree / link).symlink_to(target)
    assert names(tree, "**") == ["a.PNG", "b.jpg", "elsewhere/d.webp", "odd[1].jpg", "sub/c.tif"]
    assert names(tree, "**/*.tif") == ["sub/c.tif"]
    assert names(tree, "self.jpg") == ["self.jpg"]  # reading it says what is wrong


@pytest.mark.parametrize(
    "name", ["~nobody-has-this-name/a.jpg", "x" * 300, "a\0b.jpg", "\udcff.jpg", "a\nb.jpg"]
)
def test_names_of_any_kind_are_left_to_the_reader(name):
    assert find_images([name]) == ([Path(name)], [], [])


def test_an_empty_name_is_no_folder():
    assert find_images([""]) == ([], ["'': the empty name is no image"], [])


def test_folders_without_permission_are_named(tree):
    os.chmod(tree / "sub" / "deep", 0)
    program = (
        "import os, sys; from segnext.cli._inputs import find_images\n"
        "os.getuid() or os.setuid(65534)  # root may read everything\n"
        "files, problems, _ = find_images(sys.argv[1:]); print(*files, *problems, sep='\\n')"
    )
    temporary = Path(tempfile.gettempdir()).resolve()
    for folder in (tree, *(parent for parent in tree.parents if temporary in parent.parents)):
        os.chmod(folder, 0o755)
    arguments = [str(tree / "sub" / "deep"), str(tree / "**")]
    done = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True)
    os.chmod(tree / "sub" / "deep", 0o755)
    if "Permission denied" in done.stderr:
        pytest.skip("the user nobody may not read this checkout")
    assert done.stdout.splitlines() == [
        *(str(tree / name) for name in ("a.PNG", "b.jpg", "odd[1].jpg", "sub/c.tif")),
        *[f"{tree / 'sub' / 'deep'}: the folder cannot be read (Permission denied)"] * 2,
    ]


def test_results_are_no_photographs(tree):
    for name in ("a_mask.png", "a_overlay.jpg", "sub/c_mask.png"):
        (tree / name).touch()
    files, _, left_out = find_images([str(tree / "**")], results=tree)
    assert [file.name for file in files] == ["a.PNG", "b.jpg", "odd[1].jpg", "c.tif", "c_mask.png", "d.webp"]
    assert left_out == [tree / "a_mask.png", tree / "a_overlay.jpg"]
    named = find_images([str(tree / "**"), str(tree / "a_mask.png")], results=tree)
    assert named.files[-1] == tree / "a_mask.png" and named.left_out == [tree / "a_overlay.jpg"]


@pytest.mark.parametrize("name", ["x" * 251 + ".jpg", "\u00e4" * 125 + ".jpg", "x" * 246 + "\u00e4.jpg"])
def test_results_of_long_names_fit_into_a_folder(tmp_path, name):
    (tmp_path / name).touch()
    first, second = result_names([tmp_path / name, tmp_path / f"{name[:-5]}y.jpg"])
    assert first != second
    for ending in RESULT_ENDINGS:
        (tmp_path / f"{first}{ending}").touch()


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (["/p/a.jpg", "/p/b.jpg"], ["a", "b"]),
        (["/p/berlin/1.jpg", "/p/bonn/1.jpg", "/p/2.jpg"], ["berlin_1", "bonn_1", "2"]),
        (["/p/x/l/1.jpg", "/p/y/l/1.jpg", "/p/y/r/1.jpg"], ["x_l_1", "y_l_1", "r_1"]),
        (["/p/a.jpg", "/p/a.png"], ["a_jpg", "a_png"]),
        (["/p/a.jpg", "/p/a.png", "/q/a.jpg"], ["a_jpg", "a_png", "a"]),
        (["/p/a.jpg", "/p/a.png", "/p/a_jpg.jpg"], ["p_a_jpg", "a_png", "p_a_jpg"]),
        (["/p/A.jpg", "/q/a.jpg"], ["p_A", "q_a"]),
        (["/a_b/c.jpg", "/a/b_c.jpg", "/c.jpg"], ["a_b_c", "b_c", "c"]),
        (["/p/.hidden", "/p/v1.2.jpg"], [".hidden", "v1.2"]),
    ],
)
def test_result_names(files, expected):
    result = result_names([Path(file) for file in files])
    if len({name.lower() for name in expected}) == len(expected):
        assert result == expected
    assert len({name.lower() for name in result}) == len(files)  # never two results in one file


def test_result_names_are_distinct_for_hostile_paths():
    parts = ["a", "a_a", "a_a_a"]
    files = [
        Path("/", x, y + suffix) for x in parts for y in parts for suffix in (".jpg", ".png", "_jpg.jpg")
    ]
    assert len(set(result_names(files))) == len(files)
