// Of a Python without settings: see Python.h.
