"""All that the Triton kernels share: launching, tuning, and the parts that several ops are made of."""
