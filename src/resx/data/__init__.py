"""Images: data sets by name, files decoded and brought to size, and what is random about training images."""
