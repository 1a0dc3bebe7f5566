"""Weights from files and published collections: what a file is, its tensors, and their names."""
