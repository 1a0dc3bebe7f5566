"""The model repository, the embedded Triton over it, and the client of any Triton."""
