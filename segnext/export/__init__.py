"""Exported models: one file per network, of standard operators, which other runtimes run without segnext."""
