"""A policy fitted to what was best in hindsight."""

import itertools
from collections.abc import Sequence

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

    What one network makes of states that are rare depends on its first weights. So several are fitted, and
    the policy's logits are the mean of theirs, which ranks actions as their mean log probability does.

    Args:
        states: States, and the advantages of all actions.
        spec: Description of the policy: flattened, normalised, linear layers with tanh, each hidden one as
            wide as those of all networks together.
        settings: How long and how fast.
        seed: Seed of the first weights and of the minibatches.

    Returns:
        The policy's weights by name, float32, those that normalise and that tell what is familiar among
        them.
    """
    moments = Moments.of(states.observations.astype(np.float32))
    mean = torch.from_numpy(moments.mean).float()
    deviation = torch.from_numpy(moments.deviation()).float() + LEAST_DEVIATION
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        networks = [_fit_network(states, mean, deviation, settings) for _ in range(settings.networks)]
    fitted = {"layers.1.mean": mean, "layers.1.deviation": deviation}
    if spec.abstention is not None:
        familiarity = _familiarity(torch.from_numpy(states.observations), mean, deviation)
        fitted |= {f"familiarity.{name}": part for name, part in familiarity.state_dict().items()}
    for number, module in enumerate(side_by_side(networks), start=2):
        for name, tensor in module.state_dict().items():
            fitted[f"layers.{number}.{name}"] = tensor
    assert {*policy_layout(spec).names} <= {*fitted}
    return fitted


def _fit_network(
    states: States, mean: Tensor, deviation: Tensor, settings: ImitationHyperparameters
) -> nn.Sequential:
    """Returns a network from new first weights, fitted to all states."""
    observations, masks, worth, weights = as_tensors(states)
    network = _network(observations.shape[1], settings.net_arch, worth.shape[1])
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
    return network


@torch.no_grad()
def side_by_side(networks: Sequence[nn.Sequential]) -> nn.Sequential:
    """Join networks of one shape to a network whose outputs are the mean of theirs.

    Args:
        networks: Linear layers with others between them that act on each number alone; two linear layers
            at least.

    Returns:
        The network: hidden layers lie side by side, with zeros between them.
    """
    joined: list[nn.Module] = []
    for number, layers in enumerate(zip(*networks, strict=True)):
        first = layers[0]
        if not isinstance(first, nn.Linear):
            joined.append(first)
            continue
        weights, biases = [layer.weight for layer in layers], [layer.bias for layer in layers]
        if number == 0:
            weight, bias = torch.cat(weights), torch.cat(biases)
        elif number < len(networks[0]) - 1:
            weight, bias = torch.block_diag(*weights), torch.cat(biases)
        else:
            weight, bias = torch.cat(weights, 1) / len(networks), torch.stack(biases).mean(0)
        linear = nn.utils.skip_init(nn.Linear, weight.shape[1], weight.shape[0])
        linear.weight.copy_(weight)
        linear.bias.copy_(bias)
        joined.append(linear)
    return nn.Sequential(*joined)


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


def _network(size: int, hidden: Sequence[int], outputs: int) -> nn.Sequential:
    """Returns linear layers with tanh between them, the last one near 0."""
    widths = (size, *hidden)
    layers: list[nn.Module] = []
    for before, after in itertools.pairwise(widths):
        layers += [nn.Linear(before, after), nn.Tanh()]
    last = nn.Linear(widths[-1], outputs)
    with torch.no_grad():
        last.weight *= 0.1
        last.bias.zero_()
    return nn.Sequential(*layers, last)
