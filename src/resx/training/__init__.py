"""Training: configuration, data, loop, and the run folder that comes of it."""
