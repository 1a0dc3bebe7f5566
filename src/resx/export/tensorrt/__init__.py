"""Plans of TensorRT and engines of TensorRT for RTX: built, or built elsewhere and imported."""
