"""What a run computes on and in which precision, by what is said to be there: no GPU is needed."""

from collections.abc import Callable

import pytest
import torch

from resx.errors import MissingCapability
from resx.gpus import DRIVER, Device, Gpus, Wish, find_gpus
from resx.training.config import TrainingConfig
from resx.training.devices import (
    PrecisionWish,
    choose_device,
    choose_precision,
    exact_convolutions,
    missing_for_gpu,
    require_answer,
)
from resx.training.processes import Processes

NO_DRIVER = Gpus(count=0, missing=f"no NVIDIA driver is installed ({DRIVER} is missing)")


def unasked() -> str:
    raise AssertionError("PyTorch is not asked for what is not wanted")


@pytest.mark.parametrize(("wish", "found"), [("auto", NO_DRIVER), ("cpu", NO_DRIVER), ("cpu", Gpus(count=2))])
def test_the_cpu_is_taken_where_there_is_no_gpu_or_where_it_is_asked_for(wish: Wish, found: Gpus) -> None:
    assert choose_device(wish, found=lambda: found, missing=unasked) == "cpu"


@pytest.mark.parametrize("wish", ["auto", "gpu"])
def test_a_gpu_that_pytorch_can_use_is_taken(wish: Wish) -> None:
    assert choose_device(wish, found=lambda: Gpus(count=1), missing=lambda: "") == "gpu"


@pytest.mark.parametrize("wish", ["auto", "gpu"])
@pytest.mark.parametrize("reason", ["PyTorch 2.14.1+cpu here is the package for the CPU", "driver too old"])
def test_a_gpu_that_pytorch_cannot_use_is_never_passed_over_in_silence(wish: Wish, reason: str) -> None:
    expected = rf"2 GPUs are here, but cannot be used: {reason.replace('+', '.')}; .*--device cpu trains on the CPU"
    with pytest.raises(MissingCapability, match=expected):
        choose_device(wish, found=lambda: Gpus(count=2), missing=lambda: reason)


def test_a_gpu_that_is_asked_for_and_is_not_there_is_named_with_what_it_needs() -> None:
    expected = r"--device gpu: no NVIDIA driver .*package for CUDA .* driver; --device cpu trains"
    with pytest.raises(MissingCapability, match=expected):
        choose_device("gpu", found=lambda: NO_DRIVER, missing=unasked)


@pytest.mark.skipif(not find_gpus().missing, reason="there is a GPU here")
def test_without_a_gpu_pytorch_says_why_in_one_line() -> None:
    assert missing_for_gpu()
    assert "\n" not in missing_for_gpu()
    with pytest.raises(MissingCapability, match="--device gpu: .*--device cpu trains on the CPU"):
        require_answer(torch.device("cuda"))
    require_answer(torch.device("cpu"))


@pytest.mark.parametrize(
    ("wish", "device", "bf16", "precision"),
    [
        ("auto", "gpu", True, "bf16"), ("auto", "gpu", False, "fp16"), ("auto", "cpu", True, "bf16"),
        ("bf16", "gpu", True, "bf16"), ("fp16", "gpu", False, "fp16"), ("fp32", "gpu", False, "fp32"),
        ("auto", "cpu", False, "fp32"), ("bf16", "cpu", True, "bf16"), ("fp16", "cpu", False, "fp16"),
    ],
)  # fmt: skip
def test_auto_is_bf16_where_the_device_computes_it(
    wish: PrecisionWish, device: Device, bf16: bool, precision: str
) -> None:
    assert choose_precision(wish, device, bf16=lambda _device: bf16) == precision


def test_bf16_on_a_gpu_that_only_emulates_it_is_refused() -> None:
    with pytest.raises(MissingCapability, match=r"--precision bf16: this GPU does not .*use --precision fp16 or auto"):
        choose_precision("bf16", "gpu", bf16=lambda _device: False)


def test_bf16_on_a_processor_without_its_instructions_is_refused() -> None:
    with pytest.raises(MissingCapability, match=r"--precision bf16: .* has no BF16 instructions; use --precision fp32"):
        choose_precision("bf16", "cpu", bf16=lambda _device: False)


@pytest.mark.parametrize(("written", "device"), [("cuda", "gpu"), ("gpu", "gpu"), ("cpu", "cpu")])
def test_a_configuration_of_an_older_version_is_read(written: str, device: Device) -> None:
    read = TrainingConfig.model_validate_json(f'{{"data": "digits", "device": "{written}"}}')
    assert (read.device, read.num_processes, read.channels_last, read.compiled) == (device, 1, False, False)


def test_convolutions_are_exact_while_training_and_as_before_afterwards() -> None:
    if not torch.backends.cudnn.is_available():
        pytest.skip("this PyTorch has no cuDNN")
    flags: Callable[[], tuple[bool, bool, bool, bool]] = lambda: (  # noqa: E731
        torch.backends.cudnn.enabled,
        torch.backends.cudnn.benchmark,
        torch.backends.cudnn.deterministic,
        torch.backends.cudnn.allow_tf32,
    )
    before = flags()
    with exact_convolutions():
        assert flags() == (True, False, True, False)
    assert flags() == before


@pytest.mark.parametrize(("num_images", "count"), [(10, 1), (10, 3), (2, 4), (0, 2)])
def test_the_shares_of_images_are_in_order_and_leave_none_out(num_images: int, count: int) -> None:
    shares = [Processes(rank=rank, count=count).share(num_images) for rank in range(count)]
    assert [index for share in shares for index in share] == list(range(num_images))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
