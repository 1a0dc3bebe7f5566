"""From a module to an ONNX graph: survival folded, batch norms fused, written as a file."""
