"""Build a network with stochastic depth, fold its survival probabilities, and compare the two."""

import torch

import resx


def main() -> None:
    print(f"{len(resx.list_models())} variants, {resx.list_models()[0]} among them")
    network = resx.build("resnet20", survival=0.5, seed=0).eval()
    folded = resx.fold(network)
    images = torch.rand(4, 3, 32, 32)
    with torch.inference_mode():
        difference = (network(images) - folded(images)).abs().max().item()
    print(f"largest difference of a logit: {difference:.1e}")
    assert difference < 1e-4


if __name__ == "__main__":
    main()
