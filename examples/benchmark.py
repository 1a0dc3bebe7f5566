"""Measure a served model: a closed loop at two concurrencies, then an open loop below the highest rate."""

import resx


def main() -> None:
    model = resx.export("resnet20", name="random", seed=0)
    with resx.serve(model.name):
        closed = resx.bench(model.name, concurrency="1,4", duration=2, warmup=0.5)
        for load in closed.measurements:
            print(f"{load.title}: {load.images_per_s:.0f} images/s, p50 {load.p50_ms:.2f} ms")
        rate = round(max(load.images_per_s for load in closed.measurements) / 4)
        (load,) = resx.bench(model.name, rate=rate, duration=2, warmup=0.5).measurements
        print(f"{load.title}: p50 {load.p50_ms:.2f} ms, {load.failed} failed")


if __name__ == "__main__":
    main()
