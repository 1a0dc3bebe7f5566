"""What CIFAR's pickles may hold: arrays and lists as old and new pickles write them, and nothing that runs."""

import os
import pickle
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from resx.data.loading import load_data
from resx.errors import UsageError
from tests.support.cifar_archives import cifar_pixels, write_cifar10

# What Python 2 wrote: {'data': uint8 [2, 3072] of ones, 'labels': [3, 5]}, built by hand since no Python 2 is at
# hand. Opcodes as in the real files: short byte strings, numpy.core.multiarray, a dtype set by its state.
PYTHON_2_BATCH = (
    b"\x80\x02}(U\x04datacnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
    b"(K\x01K\x02M\x00\x0c\x86cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R"
    b"(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89T\x00\x18\x00\x00" + b"\x01" * 6144 + b"tb"
    b"U\x06labels](K\x03K\x05eu."
)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_the_pickle_protocols_that_archives_use_read_alike(tmp_path: Path, protocol: int) -> None:
    data = load_data(f"cifar10:{write_cifar10(tmp_path / 'c', protocol)}")

    assert np.array_equal(data.held_out.images[:].reshape(3, -1), cifar_pixels(3, 9))


def test_a_batch_written_by_python_2_is_read(cifar10: Path) -> None:
    (cifar10 / "test_batch").write_bytes(PYTHON_2_BATCH)

    data = load_data(f"cifar10:{cifar10}")

    assert data.held_out.targets.tolist() == [3, 5]
    assert (data.held_out.images[:] == 1).all()


def pickled_as_protocol_5(numpy: str, buffer: bytes, order: bytes = b"C") -> bytes:
    """Return {'data': uint8 [2, 3072], 'labels': [3, 5]} as numpy 1 (`numpy.core`) or 2 (`numpy._core`) writes it."""

    def text(value: bytes) -> bytes:
        return b"\x8c" + bytes([len(value)]) + value

    module = text(numpy.encode() + b".numeric")
    dtype = text(b"numpy") + text(b"dtype") + b"\x93" + text(b"u1") + b"\x89\x88\x87R"
    state = b"(K\x03" + text(b"|") + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    array = (
        module + text(b"_frombuffer") + b"\x93(" + buffer + dtype + state + b"K\x02M\x00\x0c\x86" + text(order) + b"tR"
    )
    return b"\x80\x05}(" + text(b"data") + array + text(b"labels") + b"](K\x03K\x05eu."


@pytest.mark.parametrize("numpy", ["numpy.core", "numpy._core"])
@pytest.mark.parametrize("opcode", [b"\x96", b"\x8e"], ids=["bytearray", "read-only bytes"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_arrays_of_protocol_5_are_read_as_numpy_1_and_2_write_them(
    cifar10: Path, numpy: str, opcode: bytes, order: str
) -> None:
    pixels = cifar_pixels(2, 7)
    payload = pixels.tobytes() if order == "C" else pixels.T.tobytes()
    buffer = opcode + len(payload).to_bytes(8, "little") + payload
    content = pickled_as_protocol_5(numpy, buffer, order.encode())
    (cifar10 / "test_batch").write_bytes(content)

    data = load_data(f"cifar10:{cifar10}")

    assert np.array_equal(data.held_out.images[:].reshape(2, -1), pixels)
    assert data.held_out.targets.tolist() == [3, 5]
    if numpy == np.empty.__module__:  # what is made by hand above is what this numpy takes
        assert np.array_equal(pickle.loads(content)["data"], pixels)


@pytest.mark.parametrize(
    ("buffer", "order", "words"),
    [
        (b"\x97", b"C", "damaged|out-of-band"), (b"K\x05", b"C", "unusual array"), (b"]", b"C", "unusual array"),
        (b"\x8e" + (6144).to_bytes(8, "little") + bytes(6144), b"K", "unusual array"),
        (b"\x96" + (9).to_bytes(8, "little") + bytes(9), b"C", "damaged"),
        (b"\x96" + (2**62).to_bytes(8, "little"), b"C", "damaged"),
    ],
    ids=["out of band", "a number", "a list", "another order", "too short", "claims exabytes"],
)  # fmt: skip
def test_other_arrays_of_protocol_5_are_refused(cifar10: Path, buffer: bytes, order: bytes, words: str) -> None:
    (cifar10 / "test_batch").write_bytes(pickled_as_protocol_5("numpy._core", buffer, order))

    with pytest.raises(UsageError, match=f"test_batch: .*({words}).*; download the archive again"):
        load_data(f"cifar10:{cifar10}")


def test_an_array_that_is_named_a_thousand_times_is_not_copied_as_often(cifar10: Path) -> None:
    megabytes = b"\x96" + (30 * 2**20).to_bytes(8, "little") + bytes(30 * 2**20)
    content = pickled_as_protocol_5("numpy._core", megabytes + b"\x94")
    start, stop = content.index(b"\x8c\x13numpy._core"), content.index(b"tR") + 2
    again = (
        content[start:stop]
        .replace(megabytes + b"\x94", b"h\x00")
        .replace(b"K\x02M\x00\x0c\x86", b"J\x00\x00\xe0\x01\x85")
    )
    (cifar10 / "test_batch").write_bytes(b"\x80\x05(" + megabytes + b"\x94" + again * 1000 + b"l.")
    tracemalloc.start()

    with pytest.raises(UsageError, match="does not contain a dictionary"):
        load_data(f"cifar10:{cifar10}")

    assert tracemalloc.get_traced_memory()[1] < 300 * 2**20
    tracemalloc.stop()


class _Runs:
    """What an attacker would pickle."""

    def __init__(self, function: Callable[..., object], *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> tuple[Callable[..., object], tuple[Any, ...]]:
        return self.call


@pytest.mark.parametrize("where", ["test_batch", "batches.meta"])
@pytest.mark.parametrize("protocol", [2, 5])
def test_a_pickle_that_runs_code_is_refused_and_does_not_run(
    cifar10: Path, tmp_path: Path, where: str, protocol: int
) -> None:
    (cifar10 / where).write_bytes(
        pickle.dumps({b"data": _Runs(os.mkdir, str(tmp_path / "ran")), b"labels": [1]}, protocol)
    )

    with pytest.raises(UsageError, match=rf"{where}: refers to (posix|os)\.mkdir"):
        load_data(f"cifar10:{cifar10}")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "value",
    [
        {b"data": np.zeros((1, 3072), dtype=object), b"labels": [1]},
        {b"data": np.zeros((1, 3072), dtype=np.float64), b"labels": [1]},
        {b"data": np.zeros((2, 3072), dtype=np.uint8), b"labels": [1]},
        {b"data": np.zeros((1, 3072), dtype=np.uint8), b"labels": [10]},
        {b"data": np.zeros((1, 3072), dtype=np.uint8), b"fine_labels": [1]},
        {b"data": b"not an array", b"labels": [1]},
        {b"data": np.zeros((1, 3072), dtype=np.uint8), b"labels": [Path("x")]},
        [1, 2],
    ],
    ids=["objects", "floats", "rows", "label", "archive of the other", "bytes", "path", "list"],
)
def test_a_batch_of_something_else_is_refused(cifar10: Path, value: object) -> None:
    (cifar10 / "test_batch").write_bytes(pickle.dumps(value, 2))

    with pytest.raises(UsageError, match="test_batch"):
        load_data(f"cifar10:{cifar10}")


@pytest.mark.parametrize("share", [0, 0.01, 0.3, 0.999])
def test_a_truncated_batch_is_named(cifar10: Path, share: float) -> None:
    payload = (cifar10 / "data_batch_3").read_bytes()
    (cifar10 / "data_batch_3").write_bytes(payload[: int(len(payload) * share)])

    with pytest.raises(UsageError, match=r"data_batch_3: .*download") as caught:
        load_data(f"cifar10:{cifar10}")
    assert "\n" not in str(caught.value)


def test_a_damaged_byte_gives_data_or_a_refusal_and_nothing_else(cifar10: Path) -> None:
    small = pickle.dumps({b"data": cifar_pixels(1, 1), b"labels": [1]}, 2)
    random, refusals = np.random.default_rng(0), 0
    for _ in range(400):
        damaged = bytearray(small)
        for _ in range(int(random.integers(1, 4))):
            # The pixels are most of the bytes, and no damage to them matters.
            place = int(random.choice([random.integers(0, 160), random.integers(len(small) - 60, len(small))]))
            damaged[place] = int(random.integers(256))
        (cifar10 / "test_batch").write_bytes(damaged)
        try:
            load_data(f"cifar10:{cifar10}")
        except UsageError:
            refusals += 1
    assert 0 < refusals < 400


@pytest.mark.parametrize(
    "payload",
    [b"\x80\x04" + b"\x8f" * 1_100_000 + b".", b"\x80\x04Nr\xff\xff\xff\x0f.", b"\x80\x02" + b"]" * 1_100_000],
    ids=["empty sets", "a place far out", "empty lists"],
)
def test_a_pickle_that_would_make_gigabytes_of_objects_is_refused(cifar10: Path, payload: bytes) -> None:
    (cifar10 / "test_batch").write_bytes(payload)
    with pytest.raises(UsageError, match=r"test_batch: has more than 1,000,000 objects, unlike any CIFAR archive"):
        load_data(f"cifar10:{cifar10}")
