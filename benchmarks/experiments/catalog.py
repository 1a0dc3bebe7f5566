"""All experiments, in the order of the page."""

from benchmarks.experiments import degradation, lesions, paths, preactivation, shrinking, stochastic_depth
from benchmarks.experiments.experiment import Experiment

EXPERIMENTS: dict[str, Experiment] = {
    one.name: one
    for one in (
        degradation.EXPERIMENT,
        preactivation.EXPERIMENT,
        stochastic_depth.EXPERIMENT,
        lesions.EXPERIMENT,
        paths.EXPERIMENT,
        shrinking.EXPERIMENT,
    )
}
