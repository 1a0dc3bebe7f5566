"""The short form of `python -m benchmarks.bit_flips`."""

import zipfile
from pathlib import Path

import numpy as np
import pytest
from benchmarks.bit_flips import flip_bits, formats, is_harmless

from resx.card.signature import Signature
from resx.errors import UsageError
from resx.export.int8.calibration import load_calibration


def test_no_single_bit_flip_in_an_archive_is_trained_or_calibrated_on(tmp_path: Path) -> None:
    for form in formats(tmp_path):
        outcomes = flip_bits(form, 10, seed=0)

        assert is_harmless(outcomes), (form.name, outcomes)
        assert outcomes["refused"] >= 5, (form.name, outcomes)


@pytest.mark.parametrize("write", [np.savez, np.savez_compressed])
def test_an_array_that_is_shorter_by_its_own_header_is_refused(tmp_path: Path, write: object) -> None:
    path = tmp_path / "images.npz"
    write(path, images=np.arange(3 * 3 * 8 * 8, dtype=np.uint8).reshape(3, 3, 8, 8))  # type: ignore[operator]
    with zipfile.ZipFile(path) as file:
        (entry,) = file.infolist()
        content = file.read(entry)
    with zipfile.ZipFile(path, "w", entry.compress_type) as file:
        file.writestr("images.npy", content.replace(b"(3, 3,", b"(1, 3,"))
    damaged = path.read_bytes()
    whole_sum, own_sum = (entry.CRC.to_bytes(4, "little") for entry in (entry, zipfile.ZipFile(path).infolist()[0]))
    path.write_bytes(damaged.replace(own_sum, whole_sum))
    signature = Signature(
        input_name="images",
        input_type="float32",
        input_dims=(3, 8, 8),
        output_name="logits",
        output_dims=(2,),
        resize=8,
    )

    with pytest.raises(UsageError, match=r"images\.npz: not a \.npz file that numpy can read"):
        load_calibration(str(path), signature, num_images=8, seed=0, run=None)
