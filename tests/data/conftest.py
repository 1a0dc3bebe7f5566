"""The fixtures of a small data set, as the tests of training have them."""

from tests.training.conftest import config, small_data, small_spec

__all__ = ["config", "small_data", "small_spec"]
