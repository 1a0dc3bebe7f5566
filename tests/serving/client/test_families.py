"""One network of each family, and the deepest ones, from its name to a served answer."""

from collections.abc import Callable

import pytest

from tests.support.command import Finished

FAMILIES = ["resnet20", "plain20", "preresnet18", "resnext29_8x64d", "densenet40_12", "highway32", "vgg16_bn"]
DEEPEST = ["resnet1202", "preresnet1001"]


@pytest.mark.slow
@pytest.mark.triton
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", FAMILIES + DEEPEST)
def test_a_family_goes_from_its_name_to_a_served_answer(resx: Callable[..., Finished], name: str) -> None:
    export = resx("export", name, "--max-batch", "2", "--json")
    assert export.code == 0, export.err
    try:
        serve = resx("serve", "--detach", "--json", "--http-port=0", "--grpc-port=0", "--metrics-port=0")
        assert serve.code == 0, serve.err
        assert serve.json["models"] == {name: [1]}, "loaded, so its canary was right"
        bench = resx("bench", name, "--concurrency", "1", "--duration", "1", "--warmup", "0.2", "--json")
        assert bench.code == 0, bench.err
        assert bench.json["measurements"][0]["requests"] > 0
    finally:
        resx("stop")
