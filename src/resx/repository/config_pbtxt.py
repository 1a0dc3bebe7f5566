"""Write config.pbtxt: what Triton, embedded or NVIDIA's container, needs to know of a model.

It is built as Triton's ModelConfig message and printed by protobuf, never put together as text: names come from
files of any origin. Source: github.com/triton-inference-server/common, protobuf/model_config.proto.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from resx.card.card import Card
from resx.card.kinds import OUTPUT_KINDS, OutputKind
from resx.errors import ResxError, UsageError, reason_of
from resx.files.reading import read_bounded
from resx.names import LABEL_RULE, is_label
from resx.repository import openvino_backend
from resx.repository.cuda_provider import cuda_parameters
from resx.repository.interface import LAYOUT
from resx.repository.tensorrt_accelerator import add_tensorrt
from resx.text import one_line

CONFIG_FILE = "config.pbtxt"
LABELS_FILE = "labels.txt"
OUTPUT_KIND = "resx.output"
"""The parameter that says what the output is (`resx.card.output_kind`); absent for logits."""
ENGINE_BACKENDS = frozenset({"tensorrt", "tensorrt_rtx"})
"""For engines; each is named after the package of NVIDIA's that builds and opens them."""
OPENVINO = openvino_backend.NAME
"""The backend of models that OpenVINO computes."""
RANDOM = "random"
"""Value of the parameter resx.weights where nobody trained them; without it nothing is said of the weights."""
AUTOMATIC = -1
MAX_CONFIG_BYTES = 4 * 2**20
_ORDER = ("name", "platform", "backend", "default_model_filename", "max_batch_size", "input", "output",
          "instance_group", "optimization", "dynamic_batching", "version_policy", "model_warmup", "response_cache",
          "ensemble_scheduling")  # fmt: skip
"""How people read a configuration; fields that are not named follow, in the order of their numbers."""
_LINE = 110
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
    container; `resx.serving.embedded.patches.batcher` takes that from the embedded server, which fetches up to two
    batches for each instance beyond the bound.
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
            f"instances={self.instances}, threads={self.threads}: their product exceeds this machine's {cores} cores; "
            "lower one, or serve on a machine with more cores"
        )


def config_text(card: Card, options: ServingOptions) -> str:
    """Return the text of config.pbtxt for a model with this card: an ONNX file, or an engine.

    Raises:
        UsageError: it is an engine that takes no single image: Triton cannot serve it.
    """
    return text(config_message(card, options), {"instance_group": _placement(card)})


def config_message(card: Card, options: ServingOptions) -> Any:
    """Return the configuration of a model with this card as Triton's ModelConfig message.

    Raises:
        UsageError: as `config_text`.
    """
    _require_servable(card)
    signature = card.signature
    parameters = image_parameters(card)
    if signature.output_kind != "logits":
        parameters[OUTPUT_KIND] = signature.output_kind
    if card.source.is_random:
        parameters["resx.weights"] = RANDOM
    is_openvino = card.runtime_name == "openvino"
    if options.threads and not is_openvino:
        parameters["intra_op_thread_count"] = str(options.threads)
    parameters |= cuda_parameters(card)
    # A file of a fixed batch is no batching model to Triton: the batch is an axis like the others.
    fixed = () if signature.batch is None else (signature.batch,)
    message = new_message(card.name, parameters)
    message.backend = "onnxruntime" if card.engine is None else card.engine.builder
    message.max_batch_size = 0 if fixed else card.max_batch_size
    data_type = DATA_TYPES[signature.input_type]
    message.input.add(name=signature.input_name, data_type=data_type, dims=(*fixed, *signature.input_dims))
    message.output.add(
        name=signature.output_name,
        data_type="TYPE_FP32",
        dims=(*fixed, *signature.output_dims),
        label_filename=LABELS_FILE,
    )
    if is_openvino:
        openvino_backend.add_openvino(message, card, instances=options.instances, threads=options.threads)
    else:
        on_gpu = card.engine is not None or card.accelerator is not None
        message.instance_group.add(count=options.instances, kind="KIND_GPU" if on_gpu else "KIND_AUTO")
    if not fixed:
        _add_batching(message, card, options)
    if card.accelerator is not None:
        add_tensorrt(message, card)
    message.version_policy.latest.num_versions = 1
    if options.warm_up:
        _add_warm_up(message, card)
    if options.response_cache:
        message.response_cache.enable = True
    return message


def new_message(name: str, parameters: Mapping[str, str]) -> Any:
    """Return a ModelConfig message of this name, with these parameters."""
    from tritonclient.grpc import model_config_pb2

    message = model_config_pb2.ModelConfig(name=name)
    for key, value in parameters.items():
        message.parameters[key].string_value = value
    return message


def image_parameters(card: Card) -> dict[str, str]:
    """Return what whoever prepares an image for the model must know, as parameters of its configuration."""
    signature = card.signature
    parameters = {} if signature.resize is None else {"resx.resize": str(signature.resize)}
    if signature.interpolation != "bilinear":  # the default, which older configurations do not name
        parameters["resx.interpolation"] = signature.interpolation
    if signature.crop != "center":  # the same
        parameters["resx.crop"] = signature.crop
    if signature.layout != "nchw":  # the same
        parameters[LAYOUT] = signature.layout
    if signature.channels != "rgb":  # the same
        parameters["resx.channels"] = signature.channels
    if signature.input_type == "float32" and signature.mean and signature.std:
        parameters |= {"resx.mean": _numbers(signature.mean), "resx.std": _numbers(signature.std)}
        if signature.pixel_max != 1:  # the same
            parameters["resx.pixel_max"] = str(signature.pixel_max)
    return parameters


def engine_backend_of(message: Any) -> str:
    """Return the backend of a configuration whose model is an engine; empty for any other."""
    backend = str(message.backend) or ("tensorrt" if message.platform == "tensorrt_plan" else "")
    return backend if backend in ENGINE_BACKENDS else ""


def runs_in_python(message: Any) -> bool:
    """Say whether the embedded server computes a model of this configuration in Python, with `--native` too."""
    return message.backend in ("python", OPENVINO) or bool(engine_backend_of(message))


def instances_per_device(message: Any) -> int:
    """Return how many instances a ModelConfig asks for, on each device that its groups name."""
    return sum(max(1, group.count) for group in message.instance_group) or 1


def output_kind_of(parameters: Mapping[str, str]) -> OutputKind:
    """Return what a model's output is, by the parameters of its configuration."""
    return next((kind for kind in OUTPUT_KINDS if parameters.get(OUTPUT_KIND) == kind), "logits")


def _add_warm_up(message: Any, card: Card) -> None:
    """Add a sample of one row and one of the largest batch, of zeros.

    Zeros are what every export is tried with. Triton's random bytes are others each time, NaN among them, and Triton
    2.51 may end when a model fails on its warm-up.
    """
    signature = card.signature
    fixed = () if signature.batch is None else (signature.batch,)
    for batch in fixed or sorted({1, card.max_batch_size}):
        sample = message.model_warmup.add(name=f"batch {batch}", batch_size=1 if fixed else batch)
        tensor = sample.inputs[signature.input_name]
        tensor.data_type = message.input[0].data_type
        tensor.dims.extend((*fixed, *signature.input_dims))
        tensor.zero_data = True


def _require_servable(card: Card) -> None:
    if card.engine is not None and card.engine.batch_min > 1:
        raise UsageError(
            f"{card.name}: batch_min={card.engine.batch_min}: Triton sends single images too; give --batch-min 1"
        )


def _placement(card: Card) -> tuple[str, ...]:
    engine = card.engine
    if card.accelerator is not None:
        return ("TensorRT computes it inside onnxruntime, on a GPU only; the first load builds its engine.",)
    if card.runtime_name == "openvino":
        return ("OpenVINO computes it, on the CPU; docs/openvino.md has what each parameter is for.",)
    if engine is None:
        return ("KIND_AUTO, the default: on the GPU where the server has a backend for it, on the CPU elsewhere.",)
    capabilities = ", ".join(engine.compute_capabilities) or "any that TensorRT for RTX supports"
    built_with = (
        "A plan runs only under the TensorRT and on the kind of GPU it was built with:"
        if engine.builder == "tensorrt"
        else "An engine of TensorRT for RTX, which only the embedded server has a backend for:"
    )
    return (
        built_with,
        f"{engine.version}, compute capability {capabilities}.",
        f"Its profile: batches of {engine.batch_min} to {engine.batch_max}, tuned for {engine.batch_opt}.",
    )


def _add_batching(message: Any, card: Card, options: ServingOptions) -> None:
    """Add the batcher. Preferred sizes are for plans alone: kernels are tuned for those."""
    batching = message.dynamic_batching
    batching.SetInParent()  # an empty one says that requests are joined
    if card.engine is not None:
        batching.preferred_batch_size.extend(sorted({card.engine.batch_opt, card.engine.batch_max}))
    if bound := options.queue_bound(card.max_batch_size):
        batching.default_queue_policy.max_queue_size = bound


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


def text(message: Any, comments: Mapping[str, Sequence[str]] | None = None) -> str:
    """Return a ModelConfig message as config.pbtxt has it.

    Args:
        message: Triton's ModelConfig.
        comments: lines to stand above a field, by its name.

    Raises:
        ResxError: read back, the text says something else than the message.
    """
    lines, above = list[str](), dict(comments or {})
    for field, line in _printed(message):
        lines += [*(f"# {one_line(comment)}" for comment in above.pop(field, ())), line]
    written = "".join(f"{line}\n" for line in lines)
    if parse(written) != message:
        raise ResxError(f"{message.name}: {CONFIG_FILE} would not say what was meant; nothing was written")
    return written


def _printed(message: Any) -> Iterator[tuple[str, str]]:
    """Yield each field's name and text, an entry a line where that is short; in ASCII, all else is escaped."""
    from google.protobuf import text_format

    fields = sorted(message.ListFields(), key=lambda found: (*_place(found[0].name), found[0].number))
    for field, value in fields:
        if field.message_type is None or not field.is_repeated:
            parts = [value]
        elif field.message_type.GetOptions().map_entry:
            parts = [{key: value[key]} for key in sorted(value)]
        else:
            parts = [[entry] for entry in value]
        for part in parts:
            alone = type(message)(**{field.name: part})
            line, block = (
                str(
                    text_format.MessageToString(
                        alone, as_one_line=is_line, use_short_repeated_primitives=True, as_utf8=False
                    )
                )
                for is_line in (True, False)
            )
            yield field.name, line if len(line) <= _LINE else block.rstrip("\n")


def _place(field: str) -> tuple[int, ...]:
    return (_ORDER.index(field) if field in _ORDER else len(_ORDER),)


def read(path: Path) -> Any:
    """Read a config.pbtxt into Triton's ModelConfig message.

    Raises:
        UsageError: it cannot be read, or is not a model configuration.
    """
    try:
        content = read_bounded(path, MAX_CONFIG_BYTES).decode()
    except FileNotFoundError as error:
        raise UsageError(f"{path}: no such file; `resx export` writes one") from error
    except OSError as error:
        raise UsageError(f"{path}: {reason_of(error)}; make it readable") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: not a model configuration, as it is not UTF-8; export the model again") from error
    return parse(content, str(path))


def parse(content: str, origin: str = CONFIG_FILE) -> Any:
    """Read the text of config.pbtxt into Triton's ModelConfig message.

    Raises:
        UsageError: the text is not a model configuration.
    """
    from google.protobuf import text_format
    from tritonclient.grpc import model_config_pb2

    try:
        return text_format.Parse(content, model_config_pb2.ModelConfig())
    except (text_format.ParseError, UnicodeError) as error:  # the latter: an escaped byte that is no UTF-8
        raise UsageError(f"{origin}: {error}; export the model again, or fix the file") from error


def _numbers(values: tuple[float, ...]) -> str:
    return ",".join(f"{value:g}" for value in values)
