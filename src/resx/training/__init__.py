"""Training: what was asked, the batches, the loop, what a step changes (optimization/), what a run leaves (runs/)."""
