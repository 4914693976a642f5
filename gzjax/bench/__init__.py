"""How fast everything is, and what each choice of a recipe is worth."""
