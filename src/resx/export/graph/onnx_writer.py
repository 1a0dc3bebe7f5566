"""Write a network as an ONNX file: the graph that is served, and nothing else in it.

The graph takes `image` UINT8 [batch, 3, H, W] (or the normalised FP32 tensor), holds cast and
normalisation itself, and gives `logits` FP32 [batch, classes]. Opset 20 (22 for bf16), one file, no external data.
"""

from __future__ import annotations

import hashlib
import logging
import re
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import onnx
import torch
from torch import Tensor, nn
from torch.export import Dim
from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode

from resx.card.kinds import InputType, Precision, Target
from resx.errors import ExportError, first_line
from resx.export.graph.batchnorm_fusion import fuse
from resx.runtimes import onnx_reader
from resx.streams import silence_library
from resx.zoo.spec import ModelSpec

if TYPE_CHECKING:
    from onnx import ModelProto

OPSETS: dict[Precision, int] = {"fp32": 20, "fp16": 20, "bf16": 22, "int8": 20}
"""bf16: convolution and pooling take it from opset 22 on."""
_ESCAPES = re.compile(r"\x1b\[[0-9;]*m")
_PRINTING = ("torch.export._trace", "torch.fx.graph_module")
"""What prints whole graphs to stderr before the exporter raises."""
INPUT, OUTPUT = "image", "logits"
WEIGHTED = ("Conv", "Gemm", "MatMul")
"""The operators with weights: what is called a layer here."""

WEIGHTED_MODULES = (nn.modules.conv._ConvNd, nn.Linear)
"""The same in PyTorch."""

# int8 is made of the fp32 file (resx.export.int8.quantization).
DTYPES: dict[Precision, torch.dtype] = {
    "fp32": torch.float32,
    "fp16": torch.float16,
    "bf16": torch.bfloat16,
    "int8": torch.float32,
}


class NetworkWithPreprocessing(nn.Module):
    """The network as it is served: input conversion in front, logits in fp32 behind.

    fp16 and bf16 are made here by casting the network itself, because a converter that rewrites the finished graph
    (onnxconverter-common) writes an invalid Cast behind a UINT8 input. Normalisation stays in fp32.
    """

    scale: Tensor
    offset: Tensor

    def __init__(self, network: nn.Module, spec: ModelSpec, *, precision: Precision, input_type: InputType) -> None:
        super().__init__()
        self.dtype = DTYPES[precision]
        self.network = network.to(self.dtype)
        self.normalises = input_type == "uint8"
        std = torch.tensor(spec.std).view(1, 3, 1, 1)
        self.register_buffer("scale", 1 / (255 * std))
        self.register_buffer("offset", -torch.tensor(spec.mean).view(1, 3, 1, 1) / std)

    def forward(self, image: Tensor) -> Tensor:
        """Return logits FP32 [N, classes] for images UINT8 or normalised FP32 [N, 3, H, W]."""
        if self.normalises:
            image = image.float() * self.scale + self.offset
        return self.network(image.to(self.dtype)).float()


def write_onnx(
    network: nn.Module,
    spec: ModelSpec,
    path: Path,
    *,
    precision: Precision,
    input_type: InputType,
    target: Target = "gpu",
) -> ModelProto:
    """Export a folded network in evaluation mode to `path`; return what was written. `network` is unchanged.

    `target` gpu keeps the batch norms that follow no convolution, cpu writes them as convolutions
    (`resx.export.graph.batchnorm_fusion`). A layer's node is named by its module.

    Raises:
        ExportError: the exporter failed, wrote an invalid file, or fixed the batch size.
    """
    dtype = torch.uint8 if input_type == "uint8" else torch.float32
    # Batch 2: an example of batch 1 would make the exporter treat 1 as a constant.
    example = torch.zeros(2, 3, spec.image_size, spec.image_size, dtype=dtype)
    try:
        served = NetworkWithPreprocessing(
            fuse(network, target=target), spec, precision=precision, input_type=input_type
        ).eval()
        with silence_library(logs=logging.CRITICAL, printing=_PRINTING):
            program = torch.onnx.export(
                served,
                (example,),
                dynamo=True,
                opset_version=OPSETS[precision],
                external_data=False,
                optimize=True,
                input_names=[INPUT],
                output_names=[OUTPUT],
                dynamic_shapes=({0: Dim("batch")},),
                verbose=False,
            )
        assert program is not None
        model = program.model_proto
        _name_layers(model)
        tidy(model, spec, precision=precision, input_type=input_type)
        onnx.checker.check_model(model, full_check=True)
    except Exception as error:  # the exporter runs the network's own code, which may raise anything
        if isinstance(root := _root(error), ModuleNotFoundError):
            raise root from error
        raise ExportError(f"{spec.name}: torch.onnx could not export it: {_cause(error, precision)}") from error
    if not model.graph.input[0].type.tensor_type.shape.dim[0].dim_param:
        raise ExportError(f"{spec.name}: the exporter fixed the batch size; the model's code depends on it")
    onnx_reader.write_model(model, path)
    return model


def _root(error: BaseException) -> BaseException:
    while (deeper := error.__cause__ or error.__context__) is not None:
        error = deeper
    return error


def _cause(error: BaseException, precision: Precision) -> str:
    """Return the exception that began it, in one line, and what may help; the exporter's own words say neither."""
    error = _root(error)
    text, remedy = str(error), ""
    if isinstance(error, GuardOnDataDependentSymNode):
        remedy = "; its code branches on the image's values, which a graph cannot express; use torch.where"
    elif precision in ("fp16", "bf16") and any(word in text for word in ("dtype", "type tensor(", "Half", "BFloat16")):
        remedy = (
            f"; its code mixes its own fp32 tensors with {precision} ones: create them with dtype=x.dtype, or export "
            "fp32"
        )
    return f"{_ESCAPES.sub('', first_line(error, with_type=True))[:300]}{remedy}"


def tidy(model: ModelProto, spec: ModelSpec, *, precision: Precision, input_type: InputType) -> None:
    """Remove what tools noted about the machine they ran on, and write what the file is."""
    _strip(model)
    _describe(model, spec, precision, input_type)


def _name_layers(model: ModelProto) -> None:
    """Name each layer's node as its module, `layer1.0.conv1`, so that people can tell which one is meant."""
    names: Counter[str] = Counter()
    for node in model.graph.node:
        if node.op_type in WEIGHTED and node.input[1].endswith(".weight"):
            name = node.input[1].removeprefix("network.").removesuffix(".weight")
            names[name] += 1
            node.name = name if names[name] == 1 else f"{name}:{names[name]}"


def _strip(model: ModelProto) -> None:
    """Remove what the exporter notes about the machine it ran on: stack traces with local paths, and more."""
    model.doc_string = ""
    model.graph.doc_string = ""
    del model.metadata_props[:]
    del model.graph.metadata_props[:]
    for node in model.graph.node:
        node.doc_string = ""
        del node.metadata_props[:]
    for value in (*model.graph.input, *model.graph.output, *model.graph.value_info, *model.graph.initializer):
        value.doc_string = ""
        del value.metadata_props[:]


def _describe(model: ModelProto, spec: ModelSpec, precision: Precision, input_type: InputType) -> None:
    labels = "\n".join(spec.labels).encode()
    properties = {
        "resx.name": spec.name,
        "resx.precision": precision,
        "resx.input": input_type,
        "resx.mean": ",".join(map(str, spec.mean)),
        "resx.std": ",".join(map(str, spec.std)),
        "resx.labels_sha256": hashlib.sha256(labels).hexdigest() if labels else "",
    }
    model.graph.name = spec.name
    onnx.helper.set_model_props(model, properties)
