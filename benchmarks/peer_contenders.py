"""Who is compared, with what file, and the figures that have to hold."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

NETWORKS = ("resnet20", "resnet50", "densenet121", "resnext50_32x4d")
Form: TypeAlias = Literal["fp32", "bf16", "int8", "int8_qdq"]
FORMS: dict[Form, tuple[str, ...]] = {
    "fp32": (),
    "bf16": ("--bf16", "--runtime=openvino"),
    "int8": ("--int8", "--runtime=openvino", "--calibrate=random", "--calibrate-images=32", "--no-verify"),
    "int8_qdq": ("--int8", "--runtime=onnxruntime", "--calibrate=random", "--calibrate-images=32", "--no-verify"),
}
"""What each file is exported with. Weights are random: their int8 answers do not survive rounding, its speed does."""
Figure: TypeAlias = Literal["c1_p50_ms", "c8_per_s", "b1_ms", "b4_per_s", "b8_per_s"]
AT_ONCE: dict[Figure, int] = {"c1_p50_ms": 1, "c8_per_s": 8, "b1_ms": 1, "b4_per_s": 4, "b8_per_s": 8}
"""Requests in flight, or images of a batch in process."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Contender:
    """A server, or a file in process."""

    title: str
    form: Form
    kind: Literal["resx", "peer", "in_process"]
    script: str = ""
    """Of a peer: its script's and environment's name."""
    options: tuple[str, ...] = ()
    """Of `resx serve`, or of the peer's script."""


_OV = ("--runtime", "openvino")
CONTENDERS: dict[str, Contender] = {
    "resx_native": Contender(title="resx serve --native, fp32", form="fp32", kind="resx", options=("--native",)),
    "resx": Contender(title="resx serve, fp32", form="fp32", kind="resx"),
    "in_process": Contender(title="in process, onnxruntime fp32", form="fp32", kind="in_process"),
    "fastapi": Contender(title="FastAPI + onnxruntime, fp32", form="fp32", kind="peer", script="fastapi"),
    "litserve": Contender(title="LitServe + onnxruntime, fp32", form="fp32", kind="peer", script="litserve"),
    "ray_serve": Contender(title="Ray Serve + onnxruntime, fp32", form="fp32", kind="peer", script="ray_serve"),
    "bentoml": Contender(title="BentoML + onnxruntime, fp32", form="fp32", kind="peer", script="bentoml"),
    "resx_bf16": Contender(title="resx serve, OpenVINO bf16", form="bf16", kind="resx"),
    "in_process_bf16": Contender(title="in process, OpenVINO bf16", form="bf16", kind="in_process"),
    "fastapi_bf16": Contender(
        title="FastAPI + OpenVINO bf16", form="bf16", kind="peer", script="fastapi", options=(*_OV, "--bf16")
    ),
    "resx_int8": Contender(title="resx serve, OpenVINO int8", form="int8", kind="resx"),
    "in_process_int8": Contender(title="in process, OpenVINO int8", form="int8", kind="in_process"),
    "fastapi_int8": Contender(
        title="FastAPI + OpenVINO int8, same file", form="int8", kind="peer", script="fastapi", options=_OV
    ),
    "in_process_qdq": Contender(title="in process, onnxruntime int8", form="int8_qdq", kind="in_process"),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Bar:
    """A ratio of two figures of one network that has to hold."""

    network: str
    over: tuple[str, Figure]
    under: tuple[str, Figure]
    limit: float
    at_most: bool = False

    @property
    def title(self) -> str:
        """What is divided by what."""
        words = {
            "c1_p50_ms": "median alone", "c8_per_s": "8 in flight", "b1_ms": "batch 1", "b4_per_s": "batch 4",
            "b8_per_s": "batch 8",
        }  # fmt: skip
        sides = [f"{CONTENDERS[name].title} ({words[figure]})" for name, figure in (self.over, self.under)]
        return f"{self.network}: {sides[0]} / {sides[1]}"


def _served(network: str, over: str, under: str, limit: float) -> Bar:
    return Bar(network=network, over=(over, "c8_per_s"), under=(under, "c8_per_s"), limit=limit)


def _alone(network: str, over: str, under: tuple[str, Figure], limit: float) -> Bar:
    return Bar(network=network, over=(over, "c1_p50_ms"), under=under, limit=limit, at_most=True)


def _in_process(network: str, over: str, under: str, limit: float) -> Bar:
    return Bar(network=network, over=(over, "b4_per_s"), under=(under, "b4_per_s"), limit=limit)


BARS = (
    *(_in_process(network, "in_process_bf16", "in_process", 1.8) for network in NETWORKS[1:]),
    _in_process("resnet50", "in_process_int8", "in_process_qdq", 1.05),
    _in_process("densenet121", "in_process_int8", "in_process_qdq", 1.15),
    _in_process("resnext50_32x4d", "in_process_int8", "in_process_qdq", 1.4),
    _served("resnet50", "resx_bf16", "fastapi", 1.9),
    _served("resnet50", "resx_bf16", "fastapi_bf16", 1.03),
    _served("resnet50", "resx_int8", "fastapi", 3.5),
    _served("resnet50", "resx_int8", "fastapi_int8", 1.03),
    _alone("resnet50", "resx_int8", ("fastapi_int8", "c1_p50_ms"), 1.0),
    Bar(network="resnet50", over=("resx_bf16", "c8_per_s"), under=("in_process_bf16", "b8_per_s"), limit=0.92),
    Bar(network="resnet50", over=("resx_int8", "c8_per_s"), under=("in_process_int8", "b8_per_s"), limit=0.85),
    _alone("resnet20", "resx_native", ("fastapi", "c1_p50_ms"), 0.85),
    _alone("resnet20", "resx", ("fastapi", "c1_p50_ms"), 1.0),
    _served("resnet20", "resx_native", "fastapi", 1.65),
    _alone("resnet50", "resx_native", ("in_process", "b1_ms"), 1.06),
    _alone("resnet50", "resx_bf16", ("in_process_bf16", "b1_ms"), 1.06),
)
