"""Writes pages of docs/ and their drawings from the code and the result files; `python -m bench.readme` calls it."""
