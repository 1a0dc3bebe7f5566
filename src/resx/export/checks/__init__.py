"""What a file is held to: parity, accuracy, answers that are a row's own, files compared."""
