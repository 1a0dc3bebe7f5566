"""Write config.pbtxt: what Triton, embedded or NVIDIA's container, needs to know of a model.

The text is ours and golden, because people read and edit it; `parse` reads it back through Triton's own
protobuf. Source: github.com/triton-inference-server/common, protobuf/model_config.proto.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from resx.errors import UsageError
from resx.export.card import OUTPUT_KINDS, Card, Engine, OutputKind
from resx.listing import LABEL_RULE, is_label, one_line

CONFIG_FILE = "config.pbtxt"
LABELS_FILE = "labels.txt"
OUTPUT_KIND = "resx.output"
"""The parameter that says what the output is (`resx.export.output_kind`); absent for logits."""
RANDOM = "random"
"""Value of the parameter resx.weights where nobody trained them; without it nothing is said of the weights."""
AUTOMATIC = -1
RESPONSE_CACHE = "response_cache { enable: true }\n"
DATA_TYPES = {"uint8": "TYPE_UINT8", "float32": "TYPE_FP32"}


@dataclass(frozen=True, kw_only=True, slots=True)
class ServingOptions:
    """How a model is to be served; the defaults hold on any machine."""

    instances: int = 1
    threads: int = 0
    """Of one instance, for one request. 0 leaves it to the server: all its cores, divided by the instances."""
    max_queue_size: int = AUTOMATIC
    """Requests that may wait before the next one is refused with 503; 0 is no bound.

    AUTOMATIC is four of the largest batches, and 32 at least: what waits longer than those take is answered too
    late for most clients, and after an overload they are what delays the next one.

    A bound has a price that Triton's documentation does not name: its batcher no longer fetches ahead, and a
    request that comes at a bad moment is noticed only when the batcher's sleep of 500 ms ends. So it is in NVIDIA's
    container; `resx.serving.batcher_patch` takes that from the embedded server, which fetches up to two batches for
    each instance beyond the bound.
    """
    warm_up: bool = True
    """Run batches of 1 and of the largest size before a model is ready, so that no client's request is the first."""
    response_cache: bool = False
    """Answer a request whose bytes were seen before from memory. Off while measuring."""
    image_endpoint: bool = False
    """Publish `NAME_image`, which takes files, beside NAME."""

    def __post_init__(self) -> None:
        for name in ("instances", "threads", "max_queue_size"):
            value, least = getattr(self, name), {"instances": 1, "max_queue_size": AUTOMATIC}.get(name, 0)
            if value < least:
                raise UsageError(f"{name}={value}: give {least} or more")

    def queue_bound(self, max_batch_size: int) -> int:
        """Return the requests that may wait for a model with batches up to that size; 0 is no bound."""
        return max(32, 4 * max_batch_size) if self.max_queue_size == AUTOMATIC else self.max_queue_size

    def oversubscribed(self, cores: int) -> str:
        """Return why the threads do not fit on so many cores, or an empty string."""
        if self.instances * max(1, self.threads) <= cores:
            return ""
        return (
            f"instances={self.instances}, threads={self.threads}: their product is above this machine's {cores} cores, "
            "where they would wait for each other; lower one, or serve on a machine that has more"
        )


def config_text(card: Card, options: ServingOptions) -> str:
    """Return the text of config.pbtxt for a model with this card: an ONNX file, or a TensorRT plan.

    Raises:
        UsageError: it is an engine of TensorRT for RTX, or a plan that takes no single image: Triton cannot serve them.
    """
    _require_servable(card)
    signature = card.signature
    data_type = DATA_TYPES[signature.input_type]
    parameters = image_parameters(card)
    if signature.output_kind != "logits":
        parameters[OUTPUT_KIND] = signature.output_kind
    if card.source.is_random:
        parameters["resx.weights"] = RANDOM
    if options.threads:
        parameters["intra_op_thread_count"] = str(options.threads)
    # A file of a fixed batch is no batching model to Triton: the batch is an axis like the others.
    fixed = () if signature.batch is None else (signature.batch,)
    return f"""\
name: "{card.name}"
backend: "{"onnxruntime" if card.engine is None else "tensorrt"}"
max_batch_size: {0 if fixed else card.max_batch_size}
input [
  {{
    name: "{signature.input_name}"
    data_type: {data_type}
    dims: [ {_dims((*fixed, *signature.input_dims))} ]
  }}
]
output [
  {{
    name: "{signature.output_name}"
    data_type: TYPE_FP32
    dims: [ {_dims((*fixed, *signature.output_dims))} ]
    label_filename: "{LABELS_FILE}"
  }}
]
{_placement(card.engine)}
instance_group [ {{ count: {options.instances} kind: {"KIND_AUTO" if card.engine is None else "KIND_GPU"} }} ]
{"" if fixed else f"dynamic_batching {{{_batching(card, options)}}}{chr(10)}"}\
version_policy {{ latest {{ num_versions: 1 }} }}
{_warm_up(card) if options.warm_up else ""}{RESPONSE_CACHE if options.response_cache else ""}\
{parameter_lines(parameters)}"""


def image_parameters(card: Card) -> dict[str, str]:
    """Return what whoever prepares an image for the model must know, as parameters of its configuration."""
    signature = card.signature
    parameters = {} if signature.resize is None else {"resx.resize": str(signature.resize)}
    if signature.interpolation != "bilinear":  # the default, which older configurations do not name
        parameters["resx.interpolation"] = signature.interpolation
    if signature.input_type == "float32" and signature.mean and signature.std:
        parameters |= {"resx.mean": _numbers(signature.mean), "resx.std": _numbers(signature.std)}
    return parameters


def output_kind_of(parameters: Mapping[str, str]) -> OutputKind:
    """Return what a model's output is, by the parameters of its configuration."""
    return next((kind for kind in OUTPUT_KINDS if parameters.get(OUTPUT_KIND) == kind), "logits")


def parameter_lines(parameters: dict[str, str]) -> str:
    """Return parameters as lines of config.pbtxt."""
    return "".join(
        f'parameters {{ key: "{key}" value {{ string_value: "{value}" }} }}\n' for key, value in parameters.items()
    )


def _warm_up(card: Card) -> str:
    """Return a sample of one row and one of the largest batch, of zeros.

    Zeros are what every export is tried with. Triton's random bytes are others each time, NaN among them, and Triton
    2.51 may end when a model fails on its warm-up.
    """
    signature = card.signature
    fixed = () if signature.batch is None else (signature.batch,)
    dims = _dims((*fixed, *signature.input_dims))
    tensor = f"data_type: {DATA_TYPES[signature.input_type]} dims: [ {dims} ] zero_data: true"
    samples = [
        f"""\
  {{
    name: "batch {batch}"
    batch_size: {1 if fixed else batch}
    inputs {{ key: "{signature.input_name}" value {{ {tensor} }} }}
  }}"""
        for batch in (fixed or sorted({1, card.max_batch_size}))
    ]
    return "model_warmup [\n" + ",\n".join(samples) + "\n]\n"


def _require_servable(card: Card) -> None:
    if card.engine is not None and card.engine.builder != "tensorrt":
        raise UsageError(f"{card.name}: Triton has no backend for TensorRT-RTX; publish --format onnx or tensorrt")
    if card.engine is not None and card.engine.batch_min > 1:
        raise UsageError(
            f"{card.name}: batch_min={card.engine.batch_min}: Triton sends single images too; give --batch-min 1"
        )


def _placement(engine: Engine | None) -> str:
    if engine is None:
        return "# KIND_AUTO: on the GPU where the server has one and a backend for it, on the CPU elsewhere."
    capabilities = ", ".join(engine.compute_capabilities)
    return f"""\
# A plan runs only under the TensorRT and on the kind of GPU it was built with:
# {engine.version}, compute capability {capabilities}.
# Its profile: batches of {engine.batch_min} to {engine.batch_max}, tuned for {engine.batch_opt}."""


def _batching(card: Card, options: ServingOptions) -> str:
    """Return what stands between the braces. Preferred sizes are for plans alone: kernels are tuned for those."""
    settings = []
    if card.engine is not None:
        sizes = ", ".join(str(size) for size in sorted({card.engine.batch_opt, card.engine.batch_max}))
        settings.append(f"preferred_batch_size: [ {sizes} ]")
    if bound := options.queue_bound(card.max_batch_size):
        settings.append(f"default_queue_policy {{ max_queue_size: {bound} }}")
    return f" {' '.join(settings)} " if settings else ""


def labels_text(card: Card) -> str:
    """Return the text of labels.txt: one line per class, `class-7` where no name is known.

    Raises:
        UsageError: a label is no line of its own, and could shift those after it.
    """
    signature = card.signature
    if bad := [label for label in signature.labels if not is_label(label, with_tabs=True)]:
        raise UsageError(
            f"{card.name}: label '{one_line(bad[0][:100])}': {LABEL_RULE}; rename the class and export again"
        )
    labels = signature.labels or tuple(f"class-{index}" for index in range(signature.num_outputs))
    return "".join(f"{label}\n" for label in labels)


def parse(text: str) -> Any:
    """Read config.pbtxt into Triton's ModelConfig message.

    Raises:
        UsageError: the text is not a model configuration.
    """
    from google.protobuf import text_format
    from tritonclient.grpc import model_config_pb2

    try:
        return text_format.Parse(text, model_config_pb2.ModelConfig())
    except text_format.ParseError as error:
        raise UsageError(f"config.pbtxt: {error}; export the model again, or mend the file") from error


def _dims(sizes: tuple[int, ...]) -> str:
    return ", ".join(map(str, sizes))


def _numbers(values: tuple[float, ...]) -> str:
    return ",".join(f"{value:g}" for value in values)
