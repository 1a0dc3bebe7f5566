"""The embedded Triton: its files, its process, its backends, and what resx changes in it."""
