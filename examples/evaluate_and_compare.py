"""Export one run twice, in fp32 and int8, and compare the two files on the same held-out images."""

import resx


def main() -> None:
    run = resx.train("resnet20", data="digits", epochs=2, output="runs/digits", force=True)
    full = resx.export(run.folder, name="digits")
    small = resx.export(run.folder, name="digits_int8", int8=True)

    found = resx.evaluate(full.name, against=small.name, data="digits")
    print(f"{found.model}: {found.accuracy:.1%} [{found.low:.1%}, {found.high:.1%}] of {found.num_images} images")
    assert found.against is not None
    assert found.comparison is not None
    print(f"{found.against.model}: {found.against.top1.share:.1%}")
    print(f"{found.comparison.num_flips} images change class, McNemar's p = {found.comparison.p_value:.2f}")
    print(f"{full.file.stat().st_size:,} bytes and {small.file.stat().st_size:,}")


if __name__ == "__main__":
    main()
