"""Ways to differentiate a solve; the grid of steps is a constant of every gradient."""
