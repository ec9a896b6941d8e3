"""Small networks and how they are trained: what studies, suites and the demo merge."""

from modelwright.train._mlp import (
    HEAD as HEAD,
    MlpPredictor as MlpPredictor,
    Training as Training,
    Weights as Weights,
    mlp_gradients as mlp_gradients,
    mlp_probabilities as mlp_probabilities,
    random_mlp as random_mlp,
    save_mlp as save_mlp,
    train_mlp as train_mlp,
)
