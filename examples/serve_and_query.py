"""Serve a model for the length of a `with` block, and ask it about an image file."""

from pathlib import Path

from PIL import Image

import resx


def main() -> None:
    photo = Path("photo.png")
    Image.linear_gradient("L").convert("RGB").save(photo)

    model = resx.export("resnet20", name="random", seed=0)
    with resx.serve(model.name) as server, server.client() as client:
        print(f"serving {client.models()} at {server.url}")
        for guess in client.query(model.name, [photo], top=3)[0]:
            print(f"  {guess.label or guess.index}: {guess.value:.3f}")


if __name__ == "__main__":
    main()
