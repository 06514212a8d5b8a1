"""A policy fitted to what was best in hindsight."""

import numpy as np
import torch
from torch import Tensor, nn

from agents.imitating.hyperparameters import ImitationHyperparameters
from agents.imitating.sweeps import States, as_tensors
from autotrain_env.policies.layers import MAX_NORMALIZED, Familiarity
from autotrain_env.policies.moments import Moments
from autotrain_env.policies.spec import PolicySpec
from autotrain_env.policies.stacked import policy_layout

LARGEST_ADVANTAGE = 0.5
LEAST_DEVIATION = 1e-3
IMPOSSIBLE_LOGIT = -1e9
PART = 8192  # observations taken together for their covariance
LEAST_LOG = -20.0  # of a probability, so that impossible actions count for nothing


def fit(
    states: States, spec: PolicySpec, settings: ImitationHyperparameters, seed: int
) -> dict[str, Tensor]:
    """Fit a policy so that the mean advantage of its actions is as large as can be.

    The probabilities of all actions count in every state, which is the gradient of a policy without its
    noise (AggreVaTe: Ross and Bagnell, arXiv:1406.5979; Sun et al., arXiv:1703.01030). Of an action that is
    hardly ever taken it says next to nothing, so that rewinds would never be learned. So the fit begins
    with the cross-entropy against the softmax of advantages, and goes over to that gradient bit by bit.

    Args:
        states: States, and the advantages of all actions.
        spec: Description of the policy: flattened, normalised, linear layers with tanh.
        settings: How long and how fast.
        seed: Seed of the first weights and of the minibatches.

    Returns:
        The policy's weights by name, float32, those that normalise and that tell what is familiar among
        them.
    """
    observations, masks, worth, weights = as_tensors(states)
    moments = Moments.of(states.observations.astype(np.float32))
    mean = torch.from_numpy(moments.mean).float()
    deviation = torch.from_numpy(moments.deviation()).float() + LEAST_DEVIATION
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = _network(spec)
        optimizer = torch.optim.AdamW(
            network.parameters(), settings.learning_rate, weight_decay=settings.weight_decay
        )
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, settings.learning_rate, total_steps=settings.fit_steps + 1
        )
        size = min(settings.batch_size, len(states))
        order = torch.randperm(len(states))
        at = 0
        for step in range(settings.fit_steps):
            if at + size > len(states):
                order, at = torch.randperm(len(states)), 0
            batch = order[at : at + size]
            at += size
            logits = network(_normalized(observations[batch], mean, deviation))
            possible = masks[batch]
            logs = logits.masked_fill(~possible, IMPOSSIBLE_LOGIT).log_softmax(1)
            advantage = worth[batch].float().clamp(-LARGEST_ADVANTAGE, LARGEST_ADVANTAGE)
            target = (advantage / settings.temperature).masked_fill(~possible, IMPOSSIBLE_LOGIT).softmax(1)
            likely = logs.clamp(min=LEAST_LOG)
            cross_entropy = -(target * likely).sum(1)
            gain = (logs.exp() * (advantage - settings.entropy * likely)).sum(1)
            share = step / settings.fit_steps
            loss = (1 - share) * cross_entropy - share * gain / settings.temperature
            optimizer.zero_grad()
            (weights[batch] * loss).mean().backward()
            optimizer.step()
            schedule.step()
    fitted = {"layers.1.mean": mean, "layers.1.deviation": deviation}
    if spec.abstention is not None:
        familiarity = _familiarity(observations, mean, deviation)
        fitted |= {f"familiarity.{name}": part for name, part in familiarity.state_dict().items()}
    for number, module in enumerate(network, start=2):
        for name, tensor in module.state_dict().items():
            fitted[f"layers.{number}.{name}"] = tensor.detach().clone()
    assert {*policy_layout(spec).names} <= {*fitted}
    return fitted


def _familiarity(observations: Tensor, mean: Tensor, deviation: Tensor) -> Familiarity:
    """Returns how far observations lie from these, as they are normalised, shape (n, size)."""
    size = observations.shape[1]
    sums, products = torch.zeros(size, dtype=torch.float64), torch.zeros(size, size, dtype=torch.float64)
    for part in observations.split(PART):
        normalized = _normalized(part, mean, deviation).double()
        sums += normalized.sum(0)
        products += normalized.T @ normalized
    center = sums / len(observations)
    return Familiarity.of(center, products / len(observations) - torch.outer(center, center))


def _normalized(observations: Tensor, mean: Tensor, deviation: Tensor) -> Tensor:
    return ((observations.float() - mean) / deviation).clamp(-MAX_NORMALIZED, MAX_NORMALIZED)


def _network(spec: PolicySpec) -> nn.Sequential:
    """Returns the layers after the one that normalises, the last one near 0."""
    network = nn.Sequential(
        *(
            nn.Linear(layer["in"], layer["out"]) if layer["type"] == "linear" else nn.Tanh()
            for layer in spec.layers[2:]
        )
    )
    last = network[-1]
    assert isinstance(last, nn.Linear)
    with torch.no_grad():
        last.weight *= 0.1
        last.bias.zero_()
    return network
