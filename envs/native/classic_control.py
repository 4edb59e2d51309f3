"""Gymnasium's classic-control environments in NumPy: the physics of N copies at once.

A step repeats that of Gymnasium's own environment operation by operation, so that both agree to the
last bit. Every class takes the settings of Gymnasium's class and those of `NativeVectorEnv`.

Legend: N environments; the rows of a state [C, N] are its components.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from gymnasium import spaces

from ..common.arguments import flag
from .native import NativeVectorEnv

if TYPE_CHECKING:
    from typing import Unpack

    from ..common.types import Array, Space
    from .native import Settings


def _box(*high: float, low: tuple[float, ...] | None = None) -> spaces.Box:
    upper = np.array(high, np.float32)
    return spaces.Box(-upper if low is None else np.array(low, np.float32), upper)


class CartPole(NativeVectorEnv):
    """A pole on a cart that is pushed left or right; state (x, ẋ, θ, θ̇).

        a = (F + ml·θ̇²·sin θ) / M                     M = 1.1, m = 0.1, l = 0.5, F = ±10
        θ̈ = (g·sin θ − a·cos θ) / (l·(4/3 − m·cos² θ / M)),   ẍ = a − ml·θ̈·cos θ / M

    by Euler steps of 0.02 s. Source: Barto, Sutton & Anderson 1983; Florian 2007, eq. 23–24,
    without friction.

    Args:
        num_envs: How many copies to step together.
        sutton_barto_reward: Reward −1 when the pole falls and 0 before, instead of 1 per step.
        others: Settings of `NativeVectorEnv`.
    """

    max_episode_steps = 500
    _low, _high = (-0.05,) * 4, (0.05,) * 4
    _forces = np.array([-10.0, 10.0])
    _max_x, _max_angle = 2.4, 12 * 2 * math.pi / 360

    def __init__(
        self, num_envs: int = 1, *, sutton_barto_reward: bool = False, **others: Unpack[Settings]
    ) -> None:
        space = _box(2 * self._max_x, np.inf, 2 * self._max_angle, np.inf)
        super().__init__(num_envs, space, spaces.Discrete(2), **others)
        self._falls_cost = flag("sutton_barto_reward", sutton_barto_reward)
        self._ones = np.ones(num_envs)
        self._rates = np.empty_like(self._state)  # [4, N]

    def _advance(self, actions: Array) -> tuple[Array, Array]:
        force, rates = self._chosen(self._forces, actions), self._rates
        x, _, angle, spin = self._rows
        cos, sin = np.cos(angle), np.sin(angle)
        push = (force + 0.05 * np.square(spin) * sin) / 1.1
        spin_rate = (9.8 * sin - cos * push) / (0.5 * (4.0 / 3.0 - 0.1 * np.square(cos) / 1.1))
        rates[0::2] = self._state[1::2]
        rates[1] = push - 0.05 * spin_rate * cos / 1.1
        rates[3] = spin_rate
        self._state += 0.02 * rates
        terminated = (np.abs(x) > self._max_x) | (np.abs(angle) > self._max_angle)
        return (0.0 - terminated if self._falls_cost else self._ones.copy()), terminated


class Acrobot(NativeVectorEnv):
    """Two links, torque at the joint between them; state (θ₁, θ₂, θ̇₁, θ̇₂), θ₁ = 0 hanging.

        d₁ = 3.5 + cos θ₂,   d₂ = 1.25 + ½·cos θ₂,   φ₂ = ½g·cos(θ₁ + θ₂ − π/2)
        φ₁ = −½·θ̇₂²·sin θ₂ − θ̇₂·θ̇₁·sin θ₂ + 1.5g·cos(θ₁ − π/2) + φ₂
        θ̈₂ = (torque + d₂/d₁·φ₁ − ½·θ̇₁²·sin θ₂ − φ₂) / (1.25 − d₂²/d₁)
        θ̈₁ = −(d₂·θ̈₂ + φ₁) / d₁

    with unit masses, lengths and inertias and g = 9.8, by one Runge-Kutta step of 0.2 s. It
    terminates when the tip is one link above the axle. Source: Sutton & Barto 1998, section 11.3.

    Args:
        num_envs: How many copies to step together.
        others: Settings of `NativeVectorEnv`.
    """

    max_episode_steps = 500
    _low, _high = (-0.1,) * 4, (0.1,) * 4
    _torques = np.array([-1.0, 0.0, 1.0])
    _max_spins = np.array([[4 * math.pi], [9 * math.pi]])

    def __init__(self, num_envs: int = 1, **others: Unpack[Settings]) -> None:
        space = _box(1, 1, 1, 1, *self._max_spins[:, 0])
        super().__init__(num_envs, space, spaces.Discrete(3), **others)

    def _advance(self, actions: Array) -> tuple[Array, Array]:
        torque, state = self._chosen(self._torques, actions), self._state
        k1 = _acrobot_rates(state, torque)
        k2 = _acrobot_rates(state + 0.1 * k1, torque)
        k3 = _acrobot_rates(state + 0.1 * k2, torque)
        k4 = _acrobot_rates(state + 0.2 * k3, torque)
        state += 0.2 / 6.0 * (k1 + 2 * k2 + 2 * k3 + k4)
        angles, spins = state[:2], state[2:]
        while np.count_nonzero(beyond := np.abs(angles) > math.pi):
            angles[beyond] -= np.copysign(2 * math.pi, angles[beyond])
        spins.clip(-self._max_spins, self._max_spins, out=spins)
        terminated = -np.cos(angles[0]) - np.cos(angles[1] + angles[0]) > 1.0
        return terminated - 1.0, terminated

    def _observe(self) -> Array:
        observations = np.empty((self.num_envs, 6), np.float32)
        angles = self._state[:2].T
        np.cos(angles, out=observations[:, 0:4:2])
        np.sin(angles, out=observations[:, 1:4:2])
        observations[:, 4:] = self._state[2:].T
        return observations


def _acrobot_rates(state: Array, torque: Array) -> Array:
    """(θ̇₁, θ̇₂, θ̈₁, θ̈₂) `[4, N]`; sums in Gymnasium's order, so that the last bits agree."""
    angle1, angle2, spin1, spin2 = state
    cos, sin = np.cos(angle2), np.sin(angle2)
    d1 = 0.25 + (1.25 + cos) + 1.0 + 1.0
    d2 = 0.25 + 0.5 * cos + 1.0
    phi2 = 4.9 * np.cos(angle1 + angle2 - math.pi / 2)
    pull1, pull2 = 0.5 * np.square(state[2:]) * sin
    phi1 = 1.5 * 9.8 * np.cos(angle1 - math.pi / 2) - (pull2 + spin2 * spin1 * sin) + phi2
    rates = np.empty_like(state)
    rates[:2] = state[2:]
    spin_rate2 = (torque + d2 / d1 * phi1 - pull1 - phi2) / (1.25 - np.square(d2) / d1)
    rates[2] = (d2 * spin_rate2 + phi1) / -d1
    rates[3] = spin_rate2
    return rates


class MountainCar(NativeVectorEnv):
    """A car that must gain speed to climb a hill; state (position, velocity).

        v ← clip(v + 0.001·(action − 1) − 0.0025·cos 3x, ±0.07),   x ← clip(x + v, −1.2, 0.6)

    and v = 0 after hitting the left wall. Source: Moore 1990; Sutton & Barto 2018, example
    10.1.

    Args:
        num_envs: How many copies to step together.
        goal_velocity: The lowest velocity at x ≥ 0.5 that ends an episode.
        others: Settings of `NativeVectorEnv`.
    """

    max_episode_steps = 200
    _low, _high = (-0.6, 0.0), (-0.4, 0.0)
    _thrusts = np.array([-0.001, 0.0, 0.001])
    _goal = 0.5

    def __init__(
        self, num_envs: int = 1, *, goal_velocity: float = 0.0, **others: Unpack[Settings]
    ) -> None:
        super().__init__(num_envs, _box(0.6, 0.07, low=(-1.2, -0.07)), self._actions(), **others)
        self._goal_velocity = goal_velocity

    def _actions(self) -> Space:
        return spaces.Discrete(3)

    def _advance(self, actions: Array) -> tuple[Array, Array]:
        thrust = self._chosen(self._thrusts, actions)
        terminated = self._drive(thrust + np.cos(3 * self._rows[0]) * -0.0025)
        return np.full(self.num_envs, -1.0), terminated

    def _drive(self, acceleration: Array) -> Array:
        """Moves the cars, given their `acceleration` `[N]`; returns terminated `[N]`."""
        position, velocity = self._rows
        velocity += acceleration
        velocity.clip(-0.07, 0.07, out=velocity)
        position += velocity
        position.clip(-1.2, 0.6, out=position)
        np.copyto(velocity, 0.0, where=(position <= -1.2) & (velocity < 0))
        terminated: Array = (position >= self._goal) & (velocity >= self._goal_velocity)
        return terminated


class MountainCarContinuous(MountainCar):
    """The same car with a force in [−1, 1]; its state is float32, as in Gymnasium.

        v ← clip(v + 0.0015·force − 0.0025·cos 3x, ±0.07),   reward = 100·terminated − 0.1·action²

    Gymnasium's initial states are float64, so it rounds the first step of an episode later.

    Args:
        num_envs: How many copies to step together.
        goal_velocity: The lowest velocity at x ≥ 0.45 that ends an episode.
        others: Settings of `NativeVectorEnv`.
    """

    max_episode_steps = 999
    _dtype = np.float32
    _goal = 0.45

    def _actions(self) -> Space:
        return spaces.Box(-1.0, 1.0, (1,))

    def _advance(self, actions: Array) -> tuple[Array, Array]:
        actions = self._continuous(actions)
        force = actions.clip(-1.0, 1.0)
        slope = 0.0025 * np.cos(3 * self._rows[0], dtype=np.float64)
        acceleration = 0.0015 * force - slope.astype(np.float32)
        beyond = force != actions
        if np.count_nonzero(beyond):  # Gymnasium clips to a Python float, and rounds at the end
            acceleration[beyond] = 0.0015 * force[beyond].astype(np.float64) - slope[beyond]
        terminated = self._drive(acceleration)
        return 100.0 * terminated - np.square(actions, dtype=np.float64) * 0.1, terminated


class Pendulum(NativeVectorEnv):
    """A pendulum to swing up and balance with a small torque; state (θ, θ̇), θ = 0 upright.

        reward = −(wrap(θ)² + 0.1·θ̇² + 0.001·u²),   wrap(θ) ∈ [−π, π)
        θ̇ ← clip(θ̇ + (3g/2·sin θ + 3u)·0.05, ±8),   θ ← θ + 0.05·θ̇,   u = clip(action, ±2)

    Never terminates. Source: Gymnasium's documentation of Pendulum-v1.

    Args:
        num_envs: How many copies to step together.
        g: The acceleration of gravity.
        others: Settings of `NativeVectorEnv`.
    """

    max_episode_steps = 200
    _low, _high = (-math.pi, -1.0), (math.pi, 1.0)

    def __init__(self, num_envs: int = 1, *, g: float = 10.0, **others: Unpack[Settings]) -> None:
        super().__init__(num_envs, _box(1, 1, 8), spaces.Box(-2.0, 2.0, (1,)), **others)
        self._gravity = 3 * g / 2

    def _advance(self, actions: Array) -> tuple[Array, Array]:
        torque = self._continuous(actions).clip(-2.0, 2.0)
        angle, spin = self._rows
        wrapped = (angle + math.pi) % (2 * math.pi) - math.pi
        costs = np.square(wrapped) + 0.1 * np.square(spin) + 0.001 * np.square(torque)
        spin += (self._gravity * np.sin(angle) + 3.0 * torque) * 0.05
        spin.clip(-8.0, 8.0, out=spin)
        angle += spin * 0.05
        return -costs, np.zeros(self.num_envs, bool)

    def _observe(self) -> Array:
        observations = np.empty((self.num_envs, 3), np.float32)
        angle, spin = self._rows
        np.cos(angle, out=observations[:, 0])
        np.sin(angle, out=observations[:, 1])
        observations[:, 2] = spin
        return observations


NATIVE: dict[str, type[NativeVectorEnv]] = {
    "CartPole-v0": CartPole,
    "CartPole-v1": CartPole,
    "Acrobot-v1": Acrobot,
    "MountainCar-v0": MountainCar,
    "MountainCarContinuous-v0": MountainCarContinuous,
    "Pendulum-v1": Pendulum,
}
