"""How fast everything is (`python -m gzjax.bench`), and what each choice of a recipe is worth."""
