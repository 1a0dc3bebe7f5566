"""Networks with fewer blocks: which ones go, and the depths of one run that are worth having."""
