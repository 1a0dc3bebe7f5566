"""The papers' claims, tried on small data: `python -m benchmarks.experiments --help`."""
