"""Residual networks as ensembles (Veit et al. 2016, arXiv:1605.06431): lesions, paths, fewer blocks."""
