"""Train on the built-in digits, export the run in half precision, and verify what was published."""

import resx


def main() -> None:
    run = resx.train("resnet20", data="digits", epochs=2, output="runs/digits", force=True)
    print(f"{run.folder}: {run.accuracy:.1%} of the held-out images right after epoch {run.best_epoch}")

    model = resx.export(run.folder, fp16=True)
    worst = max(step.max_abs for step in model.steps)
    print(f"{model.name} version {model.version}, {model.precision}: largest difference from PyTorch {worst:.1e}")

    again = resx.verify(model.name)
    print(f"verified again: {len(again.checks)} checks passed")


if __name__ == "__main__":
    main()
