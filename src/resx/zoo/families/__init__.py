"""One file for each family of networks, and what they share: residual blocks, stochastic depth."""
