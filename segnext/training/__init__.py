"""Training: the loop, its optimiser and schedule, averaged weights, checkpoints and logs."""
