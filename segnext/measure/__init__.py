"""Measuring instruments: counted costs, the clock, the check before timing, other runtimes, the machine's facts."""
