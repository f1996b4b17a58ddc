"""Modules for global context, deployed: `segnext.models.contexts` on folded weights."""
