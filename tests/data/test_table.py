"""The table of data sets says in words which cell failed."""

import pytest

from tests.data.table import cell, main


def test_a_part_that_fails_is_not_a_yes(monkeypatch):
    def wrong() -> None:
        assert [1] == [2], "one is not two"

    def silent() -> None:
        with pytest.raises(SystemExit):
            pass

    assert cell(lambda: print("something")) == "yes"
    assert cell(wrong).startswith("NO: AssertionError one is not two")
    assert cell(silent).startswith("NO: Failed DID NOT RAISE")
    monkeypatch.setattr("sys.argv", ["table", "ade2k"])
    with pytest.raises(SystemExit, match="names must be of data sets, got ade2k"):
        main()
