"""A setting of `resx tune` in the words of config.pbtxt, and back."""

from pathlib import Path

import pytest

from resx.card.tuning import Setting
from resx.errors import UsageError
from resx.repository import config_pbtxt
from resx.repository.config_pbtxt import CONFIG_FILE
from resx.repository.versions import Repository
from resx.serving.deployment.tuned_configuration import edit, setting_of
from resx.serving.embedded.backends.config_values import SPIN_DURATION, SPIN_US, SPINNING
from tests.support.tiny_models import publish_tiny


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    found = Repository(tmp_path / "models")
    publish_tiny(found, "m")
    return found


def put_parameters(repository: Repository, **values: str) -> None:
    path = repository.root / "m" / CONFIG_FILE
    message = config_pbtxt.read(path)
    for key, value in values.items():
        message.parameters[key].string_value = value
    path.write_text(config_pbtxt.text(message))


@pytest.mark.parametrize(
    ("said", "spinning", "spin_us"),
    [
        ({}, True, SPIN_US),
        ({SPIN_DURATION: "300"}, True, 300),
        ({SPIN_DURATION: "0"}, False, 0),
        ({SPINNING: "0", SPIN_DURATION: "300"}, False, 0),
        ({SPINNING: "false"}, False, 0),
        ({SPINNING: "1"}, True, 0),  # without a bound, as older cards have it
    ],
)
def test_a_configuration_is_read_as_the_backend_reads_it(
    repository: Repository, said: dict[str, str], spinning: bool, spin_us: int
) -> None:
    put_parameters(repository, **said)
    found = setting_of(repository, "m", 1)
    assert (found.spinning, found.spin_us) == (spinning, spin_us)


@pytest.mark.parametrize(("spinning", "spin_us"), [(False, 0), (True, 0), (True, 100), (True, 300)])
def test_a_setting_survives_config_pbtxt(repository: Repository, spinning: bool, spin_us: int) -> None:
    path = repository.root / "m" / CONFIG_FILE
    put_parameters(repository, **{SPINNING: "1", SPIN_DURATION: "7"})
    message = config_pbtxt.read(path)
    split = {"instances": 2, "threads": 3, "spinning": spinning, "spin_us": spin_us}
    file = {"version": 1, "runtime": "onnxruntime", "precision": "fp32"}
    setting = Setting(max_batch=4, delay_us=9, **file, **split)  # type: ignore[arg-type]
    edit(message, setting)
    path.write_text(config_pbtxt.text(message))
    assert setting_of(repository, "m", 1) == setting


@pytest.mark.parametrize("key", ["intra_op_thread_count", SPIN_DURATION])
@pytest.mark.parametrize("text", ["two", "-1", "1.5"])
def test_a_number_that_is_none_is_named(repository: Repository, key: str, text: str) -> None:
    put_parameters(repository, **{key: text})
    with pytest.raises(UsageError, match=f"{key}='{text}'.*whole number"):
        setting_of(repository, "m", 1)
