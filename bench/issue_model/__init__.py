"""Stands in for the chip: runs the sm_90 machine code of every kernel on the CPU and counts what it issues."""
