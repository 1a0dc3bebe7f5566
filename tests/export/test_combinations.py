"""Runtimes, precisions and targets: what goes together, what is refused with a remedy, what is taken if nobody says."""

from __future__ import annotations

import pytest

from resx.card.card import Accelerator
from resx.card.kinds import Precision, Target
from resx.card.runtime import PrecisionHint, RuntimeName
from resx.errors import MissingCapability, UsageError
from resx.export.combinations import Combination, require_computable, usual_runtime
from resx.export.options import ExportOptions


@pytest.mark.parametrize(
    ("runtime", "precision", "target", "accelerator", "reason"),
    [
        ("openvino", "fp16", "cpu", None, r"--fp16 --runtime openvino: .*use --bf16, or --runtime onnxruntime"),
        ("openvino", "fp32", "gpu", None, r"--runtime openvino: computes on the CPU .*remove one of the two"),
        ("openvino", "bf16", "gpu", None, r"--runtime openvino: computes on the CPU"),
        ("openvino", "fp32", "gpu", "tensorrt", r"--accelerator tensorrt works inside onnxruntime"),
        ("onnxruntime", "bf16", "cpu", None, r"--bf16 --runtime onnxruntime: .*remove --runtime"),
        ("onnxruntime", "fp32", "cpu", "tensorrt", r"target cpu: TensorRT runs on a GPU"),
    ],
)
def test_what_does_not_go_together_is_refused_with_a_remedy(
    runtime: RuntimeName, precision: Precision, target: Target, accelerator: Accelerator | None, reason: str
) -> None:
    for kind in (Combination, ExportOptions):
        with pytest.raises(UsageError, match=reason):
            kind(runtime=runtime, precision=precision, target=target, accelerator=accelerator)


@pytest.mark.parametrize(
    ("runtime", "precision", "target", "hint", "stored"),
    [
        ("onnxruntime", "fp32", "cpu", "f32", "fp32"),
        ("onnxruntime", "fp16", "cpu", "f32", "fp16"),
        ("onnxruntime", "bf16", "gpu", "bf16", "bf16"),
        ("openvino", "fp32", "cpu", "f32", "fp32"),
        ("openvino", "bf16", "cpu", "bf16", "fp32"),
        ("openvino", "int8", "cpu", "f32", "int8"),
    ],
)
def test_openvino_computes_in_bf16_from_a_file_in_fp32(
    runtime: RuntimeName, precision: Precision, target: Target, hint: PrecisionHint, stored: Precision
) -> None:
    found = Combination(runtime=runtime, precision=precision, target=target)
    assert (found.precision_hint, found.file_precision) == (hint, stored)


@pytest.mark.parametrize("target", ["cpu", "gpu"])
@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16", "int8"])
def test_the_usual_runtime_is_never_refused(precision: Precision, target: Target) -> None:
    runtime = usual_runtime(precision, target)
    assert runtime == ("openvino" if (precision, target) == ("bf16", "cpu") else "onnxruntime")
    Combination(runtime=runtime, precision=precision, target=target)


def test_a_runtime_that_is_missing_is_told_before_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "openvino", None)
    require_computable(Combination(runtime="onnxruntime", precision="fp32", target="cpu"))
    for precision in ("fp32", "bf16"):
        with pytest.raises(MissingCapability, match=r"pip install 'resx\[openvino\]'"):
            require_computable(Combination(runtime="openvino", precision=precision, target="cpu"))
