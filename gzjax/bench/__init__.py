"""How fast everything is, measured: `python -m gzjax.bench`."""
