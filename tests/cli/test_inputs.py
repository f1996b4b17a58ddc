"""A command line names images, and their results get names of their own."""

from pathlib import Path

import pytest

from segnext.cli._inputs import find_images, result_names


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name in ("b.jpg", "a.PNG", "notes.txt", "sub/c.tif", "sub/deep/d.webp", "odd[1].jpg", "empty/x.txt"):
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    return tmp_path


def names(tree: Path, *arguments: str) -> list[str]:
    files, problems = find_images([str(tree / argument) for argument in arguments])
    assert not problems
    return [file.relative_to(tree).as_posix() for file in files]


def test_files_keep_their_order_and_any_suffix(tree):
    assert names(tree, "notes.txt", "b.jpg", "a.PNG") == ["notes.txt", "b.jpg", "a.PNG"]


def test_a_missing_file_is_left_to_the_reader(tree):
    assert names(tree, "none.jpg") == ["none.jpg"]


def test_a_folder_means_the_images_in_it(tree):
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
    files, problems = find_images([str(tree / "empty"), str(tree / "*.bmp"), str(tree / "b.jpg")])
    assert files == [tree / "b.jpg"]
    assert len(problems) == 2 and all("\n" not in problem for problem in problems)
    assert "holds no image" in problems[0] and "no image matches" in problems[1]


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
