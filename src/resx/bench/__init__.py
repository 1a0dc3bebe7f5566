"""Measure a served model: load, samples, what the server itself says, and the result."""
