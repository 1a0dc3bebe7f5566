"""Triton's model repository: versions, config.pbtxt, what may lie in it, and how something gets there."""
