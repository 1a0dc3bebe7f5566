"""What a step changes and how: the optimizer and its rates, the loss, and the state that is saved and restored."""
