"""Rollouts of scripted environments, played and recorded."""

import numpy as np
from scripted import value

from vantage.training.experience.rollout import Rollout
from vantage.training.experience.transitions import Transitions

GAMMA, LAMBDA = 0.9, 0.8


def play(envs, n_steps, rollouts=1, change=lambda t: t, act=None, v=value, lambda_=LAMBDA):
    """Arrays `[rollouts·T, N, ...]` of everything recorded, and the counters.

    `change` alters every transition on its way into the rollout: how wrong handling is played.
    """
    transitions = Transitions(envs)
    observations = transitions.reset()
    shape = envs.single_observation_space.shape
    rollout = Rollout(n_steps, envs.num_envs, shape, (), np.int64)
    names = ("observations", "actions", "values", "rewards", "terminated", "ended", "weights")
    recorded = {name: [] for name in (*names, "returns")}
    for _ in range(rollouts):
        while not rollout.is_full:
            actions = np.zeros(envs.num_envs, np.int64) if act is None else act(observations)
            rollout.act(observations, actions, v(observations))
            transition = change(transitions.step(actions))
            rollout.observe(transition)
            observations = transition.observations
        returns = rollout.finish(observations, v, GAMMA, lambda_)
        assert not rollout.is_full  # ready for the next one
        for name in names:
            recorded[name].append(getattr(rollout, name).copy())
        recorded["returns"].append(returns)
    envs.close()
    arrays = {name: np.concatenate(parts) for name, parts in recorded.items()}
    return {**arrays, "advantages": arrays["returns"] - arrays["values"]}, transitions


def of_real(arrays, name, environment, count=None):
    """What was recorded of an environment's real transitions, in order."""
    return arrays[name][arrays["weights"][:, environment] > 0, environment][:count]
