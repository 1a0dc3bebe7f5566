"""Paths through a network: their number, their lengths and their gradients (Veit et al. 2016, section 5)."""
