"""Everything that Triton kernels share: launching, tuning, and the code that several ops use."""
