"""What can be exported: a variant, a run, a network of PyTorch code, or anybody's .onnx file."""
