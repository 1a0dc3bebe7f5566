"""Model files read and run in process: onnxruntime, TensorRT."""
