"""Deployed models: weights folded, packed for the CPU, or captured in CUDA graphs.

The package is not called `deploy`: that is the public function, which a package of its name would replace.
"""
