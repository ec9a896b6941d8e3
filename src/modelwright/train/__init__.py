"""Small networks and how they are trained: what studies, suites and the demo merge."""

from modelwright.train._build import NETWORKS as NETWORKS, build as build
from modelwright.train._folder import write_folder as write_folder
from modelwright.train._heads import (
    CosineHead as CosineHead,
    Head as Head,
    LinearHead as LinearHead,
    head_of as head_of,
)
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
from modelwright.train._preference import fit_reward_head as fit_reward_head, preference_loss as preference_loss
