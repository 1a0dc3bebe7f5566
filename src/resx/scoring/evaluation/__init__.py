"""A model asked about labeled images: which images, which model, its answers."""
