"""How fast everything is, measured: `python -m gzjax.bench`."""

SUBJECTS = ("step", "input", "e2e", "predict", "augment", "start", "scaling", "peer")
