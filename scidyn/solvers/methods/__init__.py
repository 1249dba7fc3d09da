"""One file per family of one-step methods."""
