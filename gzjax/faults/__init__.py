"""What can go wrong with machines, files and people, done on purpose; see `__main__`."""
