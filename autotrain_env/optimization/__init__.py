"""What courses on optimisation build by hand, on this package's own parts.

| module | what |
|---|---|
| `steps` | update rules in a few lines each, for reading and for loops of one's own |
| `evaluation` | a model measured on all that a loader gives |
| `descents` | functions descended from many points, with many rates and momenta, in one run |
| `random_search` | random steps instead of gradients, at the same cost |
| `quadratics` | bowls of any condition number, and what theory says of descents on them |
| `networks` | the loss of networks as a function of their parameters; how minibatch gradients scatter |
| `training` | networks trained side by side: rates, momenta, batch sizes and seeds are lanes |

Pictures of them are in `autotrain_env.viewing.descents` and `autotrain_env.viewing.trainings`.
"""

from autotrain_env.optimization.descents import BACKWARD_PASSES, Counted, Path, descend, steps_needed
from autotrain_env.optimization.evaluation import evaluate
from autotrain_env.optimization.networks import (
    ClassifierLoss,
    GradientNoise,
    gradient_noise,
    initial_points,
)
from autotrain_env.optimization.quadratics import (
    Quadratic,
    Settings,
    best_gradient_descent,
    best_momentum,
    contraction,
)
from autotrain_env.optimization.random_search import StepEffects, random_search, step_effects
from autotrain_env.optimization.steps import (
    adam_step,
    gradient_step,
    momentum_step,
    random_step,
    rmsprop_step,
    zeros_like,
)
from autotrain_env.optimization.training import Trainings, seconds_per_update, train

__all__ = [
    "BACKWARD_PASSES",
    "ClassifierLoss",
    "Counted",
    "GradientNoise",
    "Path",
    "Quadratic",
    "Settings",
    "StepEffects",
    "Trainings",
    "adam_step",
    "best_gradient_descent",
    "best_momentum",
    "contraction",
    "descend",
    "evaluate",
    "gradient_noise",
    "gradient_step",
    "initial_points",
    "momentum_step",
    "random_search",
    "random_step",
    "rmsprop_step",
    "seconds_per_update",
    "step_effects",
    "steps_needed",
    "train",
    "zeros_like",
]
