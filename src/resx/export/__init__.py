"""From a network to a verified file: fold, ONNX, parity, card, publication."""
