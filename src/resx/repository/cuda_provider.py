"""onnxruntime's CUDA provider, as config.pbtxt sets it up, in the words of NVIDIA's C++ backend."""

from __future__ import annotations

from resx.card.card import Card

CUDNN_SEARCH = "cudnn_conv_algo_search"


def cuda_parameters(card: Card) -> dict[str, str]:
    """Return the parameters of a version that onnxruntime may compute on a GPU.

    1 is HEURISTIC. By default the provider tries every algorithm of cuDNN for each new size of batch.
    """
    on_gpu = card.target == "gpu" and card.engine is None and card.runtime_name == "onnxruntime"
    return {CUDNN_SEARCH: "1"} if on_gpu else {}
