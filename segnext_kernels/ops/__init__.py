"""One folder an op: definition, reference, kernels and specification under its one name."""
