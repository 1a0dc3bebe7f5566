"""Lesion studies: blocks taken out or reordered, and what that costs (Veit et al. 2016, section 4)."""
