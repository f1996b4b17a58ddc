"""Measures `segnext serve` on this machine: its overhead, its behaviour under load, and under faults."""
