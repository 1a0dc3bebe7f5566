"""What config.pbtxt says of a version that OpenVINO computes, in the words of NVIDIA's backend and beside them."""

from __future__ import annotations

import pytest

from resx.card.card import Card
from resx.card.runtime import PrecisionHint, Runtime
from resx.repository.config_pbtxt import ServingOptions, config_message, config_text
from resx.repository.openvino_backend import computed_alike, container_remark, fit_runtime, threads_of
from tests.support.cards import card, plan

OF_NVIDIA = {
    "CPU_EXTENSION_PATH", "INFERENCE_NUM_THREADS", "COMPILATION_NUM_THREADS", "HINT_BF16", "NUM_STREAMS",
    "PERFORMANCE_HINT", "SKIP_OV_DYNAMIC_BATCHSIZE", "ENABLE_BATCH_PADDING", "RESHAPE_IO_LAYERS", "TARGET_DEVICE",
}  # fmt: skip
"""All parameters that its openvino.cc reads; it passes others over."""
OF_RESX = {"INFERENCE_PRECISION_HINT", "ENABLE_CPU_PINNING", "CPU_DENORMALS_OPTIMIZATION"}


def openvino_card(hint: PrecisionHint = "f32", **changes: object) -> Card:
    runtime = Runtime(name="openvino", version="2026.4.1", precision_hint=hint, instruction_set="avx512_bf16")
    return card().model_copy(update={"runtime": runtime, **changes})


def parameters(message: object) -> dict[str, str]:
    found = message.parameters  # type: ignore[attr-defined]
    return {key: found[key].string_value for key in found if not key.startswith("resx.")}


def test_the_configuration_names_the_file_and_the_precision_that_was_verified() -> None:
    message = config_message(openvino_card("bf16"), ServingOptions())
    assert (message.backend, message.default_model_filename, message.platform) == ("openvino", "model.onnx", "")
    (group,) = message.instance_group
    assert (group.count, group.kind) == (1, group.KIND_CPU)
    assert parameters(message) == {
        "INFERENCE_PRECISION_HINT": "bf16", "HINT_BF16": "YES", "PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": "1",
        "ENABLE_CPU_PINNING": "NO", "CPU_DENORMALS_OPTIMIZATION": "YES", "ENABLE_BATCH_PADDING": "YES",
    }  # fmt: skip
    assert set(parameters(message)) <= OF_NVIDIA | OF_RESX
    lines = config_text(openvino_card("bf16"), ServingOptions()).splitlines()
    assert lines[1:3] == ['backend: "openvino"', 'default_model_filename: "model.onnx"']


def test_f32_is_said_without_the_word_for_bf16() -> None:
    found = parameters(config_message(openvino_card("f32"), ServingOptions()))
    assert found["INFERENCE_PRECISION_HINT"] == "f32"
    assert "HINT_BF16" not in found


def test_threads_and_streams_are_of_all_instances_together() -> None:
    found = parameters(config_message(openvino_card(), ServingOptions(instances=2, threads=3)))
    assert (found["NUM_STREAMS"], found["INFERENCE_NUM_THREADS"]) == ("2", "6")
    assert "intra_op_thread_count" not in found


@pytest.mark.parametrize(("largest", "padded"), [(1, False), (2, True)])
def test_batches_are_padded_only_where_there_can_be_several_rows(largest: int, *, padded: bool) -> None:
    found = parameters(config_message(openvino_card(max_batch_size=largest), ServingOptions()))
    assert ("ENABLE_BATCH_PADDING" in found) is padded


def test_an_ir_is_named_by_its_graph_and_proved_by_both_of_its_files() -> None:
    both = {"model.xml": "0" * 64, "model.bin": "1" * 64}
    made = openvino_card(files=both)
    assert config_message(made, ServingOptions()).default_model_filename == made.model_file == "model.xml"
    assert made.unproved == ""
    for name in both:
        there = {other: digest for other, digest in both.items() if other != name}
        assert openvino_card(files={"model.xml": "0" * 64} if name == "model.bin" else there).unproved
    assert card().model_copy(update={"files": both}).model_file == "model.onnx"


@pytest.mark.parametrize("serving", [ServingOptions(), ServingOptions(instances=2, threads=2, max_queue_size=7)])
@pytest.mark.parametrize("hint", ["f32", "bf16"])
def test_a_configuration_is_fitted_to_the_version_that_is_loaded_and_back(
    hint: PrecisionHint, serving: ServingOptions
) -> None:
    plain, ours = config_message(card(), serving), config_message(openvino_card(hint), serving)
    there = config_message(card(), serving)
    fit_runtime(there, openvino_card(hint), card())
    assert there == ours
    fit_runtime(there, card(), openvino_card(hint))
    assert there == plain
    newest = openvino_card("bf16" if hint == "f32" else "f32")
    other = config_message(newest, serving)
    fit_runtime(other, openvino_card(hint), newest)
    assert other == ours


def test_a_configuration_of_versions_that_are_computed_alike_stays_as_it_was_edited() -> None:
    for made in (card(), openvino_card(), plan()):
        message = config_message(made, ServingOptions())
        message.backend = "edited"
        fit_runtime(message, made, made)
        assert message.backend == "edited"
    message, before = (
        config_message(openvino_card(), ServingOptions()),
        config_message(openvino_card(), ServingOptions()),
    )
    fit_runtime(message, plan(), openvino_card())
    assert message == before


@pytest.mark.parametrize(
    ("made", "words"),
    [
        (openvino_card("f32"), ["a batch of 4", "computes in bf16 on nodes that have BF16"]),
        (openvino_card("bf16"), ["a batch of 4"]),
        (openvino_card("f32", max_batch_size=1), ["computes in bf16"]),
        (openvino_card("bf16", max_batch_size=1), []),
        (card(), []),
    ],
)
def test_what_the_container_does_otherwise_is_said(made: Card, words: list[str]) -> None:
    remark = container_remark(config_message(made, ServingOptions()))
    assert bool(remark) is bool(words)
    assert all(word in remark for word in words)
    assert ("batch of" in remark) is ("a batch of 4" in words)


@pytest.mark.parametrize(("instances", "threads"), [(1, 0), (1, 2), (3, 2)])
def test_the_threads_of_an_instance_are_read_as_they_were_written(instances: int, threads: int) -> None:
    message = config_message(openvino_card(), ServingOptions(instances=instances, threads=threads))
    assert threads_of(message) == threads


def test_only_versions_of_one_runtime_and_precision_are_computed_alike() -> None:
    of_now = card().model_copy(update={"runtime": Runtime(name="onnxruntime", version="1", instruction_set="avx2")})
    assert computed_alike(card(), of_now)
    assert computed_alike(openvino_card("bf16"), openvino_card("bf16"))
    for one, other in ((card(), openvino_card()), (openvino_card("f32"), openvino_card("bf16"))):
        assert not computed_alike(one, other)
        assert not computed_alike(other, one)
