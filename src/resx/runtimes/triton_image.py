"""The container that serves elsewhere than on loopback, and that builds TensorRT plans: NVIDIA's, one release of it.

Everything that names it takes it from here, or is held equal by a test. `make images` adds or changes its digest.
"""

IMAGE = "nvcr.io/nvidia/tritonserver:26.09-py3"
