"""What the answers of a classifier to labeled images say of it, and of two that answered the same images."""
