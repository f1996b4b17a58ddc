"""Gives the kernels to models that this project did not build."""
