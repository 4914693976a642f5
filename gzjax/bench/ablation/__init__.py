"""What each choice of the recipe is worth; see `__main__`."""
