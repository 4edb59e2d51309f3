"""Environments in turn: equal to Gymnasium's given the same seeds; seeds; broken environments."""

from __future__ import annotations

import functools

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from specimens import KINDS, Boom, Specimen, assert_same, expected_rows, faulty

from vantage.envs import BrokenEnvironmentError
from vantage.envs.common.episodes import Episodes, episode_seed
from vantage.envs.native.native import _next
from vantage.envs.vector.sync import LeanSyncVectorEnv


class Seeding(gym.Wrapper):
    """Seeds every reset of environment `index` itself, for Gymnasium does not."""

    def __init__(self, env, run_seed, index):
        super().__init__(env)
        self.run_seed, self.index, self.episode = run_seed, index, -1

    def reset(self, *, seed=None, options=None):
        self.episode += 1
        seed = episode_seed(self.run_seed, self.index, self.episode)
        return self.env.reset(seed=seed, options=options)


@pytest.mark.parametrize("make", KINDS.values(), ids=KINDS)
def test_equal_to_gymnasium(make):
    lean = LeanSyncVectorEnv([make] * 3)
    reference = SyncVectorEnv([lambda i=i: Seeding(make(), 5, i) for i in range(3)])
    assert lean.observation_space == reference.observation_space
    assert lean.action_space == reference.action_space
    assert lean.metadata["autoreset_mode"] is AutoresetMode.NEXT_STEP
    options = {"color": 3}
    for a, b in zip(lean.reset(seed=5, options=options), reference.reset(options=options)):  # noqa: B905
        assert_same(a, b)
    reference.action_space.seed(0)
    kept, ends = [], 0
    for _ in range(60):
        actions = reference.action_space.sample()
        received, expected = lean.step(actions), reference.step(actions)
        assert_same(received, expected)
        kept.append((received[0], expected[0]))
        ends += int((expected[2] | expected[3]).sum())
    assert ends > 3
    for a, b in zip(lean.reset(), reference.reset(), strict=True):
        assert_same(a, b)
    for a, b in kept:  # every step returned arrays of its own
        assert_same(a, b)


# ---------------------------------------------------------------- seeds


def test_episode_seeds_are_those_of_splitmix64():
    """The same generator as in the native environments; known outputs of splitmix64.c."""
    runs, indices, numbers = np.random.default_rng(0).integers(0, 2**62, (3, 100))
    expected = _next(_next(runs.astype(np.uint64), indices), numbers) >> np.uint64(33)
    received = [episode_seed(*three) for three in np.stack([runs, indices, numbers], 1).tolist()]
    assert received == expected.tolist()
    # Output 2⁶⁴ − 1 of a generator started at 0 is finalise(0) = 0, whose output 0 is well known.
    assert episode_seed(0, 2**64 - 1, 0) == 0xE220A8397B1DCDAF >> 33


def test_episode_seeds_differ():
    """Between runs, environments and episodes; below 2**31, which every environment takes."""
    seeds = [episode_seed(r, i, e) for r in range(3) for i in range(64) for e in range(200)]
    assert len(set(seeds)) >= len(seeds) - 3  # 0.17 coincidences are expected
    assert 0 <= min(seeds) < 2**20 and 2**31 - 2**20 < max(seeds) < 2**31
    assert episode_seed(1, 0, 0) != episode_seed(0, 1, 0) != episode_seed(0, 0, 1)


def seeds_of(envs, steps=40):
    """The seeds of the episodes of every environment, as it observes them itself."""
    seen = [[] for _ in range(envs.num_envs)]
    for _ in range(steps):
        for own, (seed, now, _) in zip(seen, envs.step(np.zeros(envs.num_envs, int))[0]):  # noqa: B905
            if now == 0:
                own.append(int(seed))
    return seen


def test_every_reset_is_seeded():
    envs = LeanSyncVectorEnv([Specimen] * 3)
    assert envs.episodes.tolist() == [-1, -1, -1] and envs.np_random_seed == (None, None, None)
    first = envs.reset(seed=9)[0][:, 0]
    assert envs.run_seed == 9
    for i, seen in enumerate(seeds_of(envs)):
        assert [first[i], *seen] == [episode_seed(9, i, e) for e in range(len(seen) + 1)]
        assert len(seen) >= 4 and envs.episodes[i] == len(seen)
        assert envs.np_random_seed[i] == seen[-1]
    before = envs.episodes
    observations, _ = envs.reset()  # the next episode
    assert envs.episodes.tolist() == (before + 1).tolist()
    expected = [episode_seed(9, i, e) for i, e in enumerate(envs.episodes.tolist())]
    assert observations[:, 0].tolist() == expected == list(envs.np_random_seed)
    assert envs.reset(seed=9)[0][:, 0].tolist() == first.tolist()  # and all over
    assert envs.episodes.tolist() == [0, 0, 0]


def test_episodes_do_not_depend_on_the_other_environments():
    alone, among = LeanSyncVectorEnv([Specimen]), LeanSyncVectorEnv([Specimen] * 5)
    for envs in (alone, among):
        envs.reset(seed=4)
    assert seeds_of(among)[0] == seeds_of(alone)[0]


def test_a_list_of_seeds():
    """Each environment begins from its own; what follows is reproducible as well."""

    def played(seeds):
        envs = LeanSyncVectorEnv([Specimen] * 2)
        first = envs.reset(seed=seeds)[0][:, 0].astype(int).tolist()
        return first, seeds_of(envs), envs.run_seed

    first, later, run_seed = played([7, 8])
    assert first == [7, 8]
    for i, seen in enumerate(later):
        assert seen == [episode_seed(run_seed, i, e + 1) for e in range(len(seen))]
    assert played([7, 8]) == played((7, 8)) == played(np.array([7, 8]))
    assert played([7, 8])[1:] != played([7, 9])[1:] != played([9, 7])[1:]
    envs = LeanSyncVectorEnv([Specimen] * 2)
    envs.reset(seed=3)
    assert envs.reset(seed=[None, 11])[0][:, 0].tolist() == [episode_seed(3, 0, 1), 11]
    assert envs.run_seed == 3 and envs.episodes.tolist() == [1, 1]
    assert envs.reset()[0][:, 0].tolist() == [episode_seed(3, i, 2) for i in range(2)]


def test_without_a_seed_runs_differ():
    one, two = LeanSyncVectorEnv([Specimen]), LeanSyncVectorEnv([Specimen])
    assert one.run_seed != two.run_seed
    assert one.reset()[0][0, 0] == episode_seed(one.run_seed, 0, 0) == one.np_random_seed[0]


@pytest.mark.parametrize("seed", [-1, 2**64, 1.5, "3", [1], [1, 2, 3], [1, -2]])
def test_seeds_that_are_none(seed):
    envs = LeanSyncVectorEnv([Specimen] * 2)
    envs.reset(seed=1)
    with pytest.raises(ValueError, match="seeds? must .* Received: .* Pass one number"):
        envs.reset(seed=seed)
    assert envs.run_seed == 1
    assert envs.reset()[0][0, 0] == episode_seed(1, 0, 1)  # nothing is left of it


def test_seeds_that_were_not_used_are_forgotten():
    episodes = Episodes(2)
    episodes.sow([5, 6])
    assert episodes.begin(0) == 5  # and then it is interrupted
    episodes.sow(3)
    assert episodes.begin(1) == episode_seed(3, 1, 0)


def test_episodes_count_steps():
    episodes = Episodes(2)
    episodes.begin(0)
    episodes.clock += 3
    episodes.begin(1)
    assert [episodes.step_of(i) for i in range(2)] == [3, 0]


def test_a_reset_mask_is_refused():
    envs = LeanSyncVectorEnv([Specimen] * 2)
    with pytest.raises(ValueError, match="DISABLED"):
        envs.reset(options={"reset_mask": np.ones(2, bool)})


# ---------------------------------------------------------------- what users and wrappers call


def test_attributes_and_frames():
    envs = LeanSyncVectorEnv([Specimen] * 2)
    envs.reset(seed=0)
    envs.step(np.zeros(2, int))
    assert [frame[0, 0, 0] for frame in envs.render()] == [1, 1]
    assert envs.render_mode == "rgb_array"
    envs.set_attr("at", 5)
    envs.set_attr("how", ["a", "b"])
    assert envs.get_attr("at") == (5, 5) and envs.get_attr("how") == ("a", "b")
    assert envs.call("look", expression="1 + 1") == (2, 2)
    assert [g.bit_generator.state for g in envs.np_random] == [
        g.bit_generator.state for g in envs.get_attr("np_random")
    ]
    with pytest.raises(ValueError, match="one value for each of 2 environments. Received: 3"):
        envs.set_attr("at", [1, 2, 3])


def test_a_wrapper_of_gymnasium():
    """Infos as Gymnasium makes them, those of a restart too."""
    envs = gym.wrappers.vector.DictInfoToList(
        LeanSyncVectorEnv([Specimen, functools.partial(Specimen, "step", at=2)], True)
    )
    envs.reset(seed=0)
    assert [set(info) for info in envs.step(np.zeros(2, int))[4]] == [{"pid"}, {"pid"}]
    one, other = envs.step(np.zeros(2, int))[4]
    assert set(one) == {"pid"} and set(other) == {"restarted", "broken"}
    assert other["restarted"] and "environment 1 raised Boom" in other["broken"]


def test_different_spaces_are_refused():
    makers = [KINDS["CartPole"], KINDS["Pendulum"]]
    with pytest.raises(ValueError, match="must all have the same spaces.*of environment 1"):
        LeanSyncVectorEnv(makers)


# ---------------------------------------------------------------- broken environments


@pytest.mark.parametrize("how", ["raise", "sys.exit"])
def test_an_exception_says_where_it_happened(how):
    expected = {"raise": "raised Boom: it went boom", "sys.exit": "raised SystemExit: 3"}[how]
    makers = [Specimen, faulty("step", how, at=9), Specimen]
    envs = LeanSyncVectorEnv(makers)
    envs.reset(seed=0)
    with pytest.raises(BrokenEnvironmentError) as caught:
        for number in range(100):
            before = envs.episodes[1]
            envs.step(np.full(3, number))
    error = caught.value
    assert isinstance(error, RuntimeError)
    assert type(error.__cause__) is {"raise": Boom, "sys.exit": SystemExit}[how]
    assert (error.index, error.call, error.episode) == (1, "step", before)
    assert error.seed == episode_seed(0, 1, before)
    lengths = [3 + episode_seed(0, 1, e) % 5 for e in range(before)]
    assert error.step == 9 - sum(lengths) > 0
    assert error.action == number == 8 + before  # a dummy step after each episode
    assert str(error) == error.first_line
    assert error.first_line == (
        f"An environment must not break. Received: environment 1 {expected} in step (episode "
        f"{before}, seed {error.seed}, step {error.step}, last action {error.action!r}). Repair "
        "it (`vantage check` finds the usual mistakes), or pass restart_broken_envs=True "
        "(--restart-broken-envs) to rebuild it and continue."
    )


def test_an_exception_in_a_reset():
    envs = LeanSyncVectorEnv([Specimen, faulty("reset")])
    with pytest.raises(BrokenEnvironmentError, match="raised Boom.* in reset") as caught:
        envs.reset(seed=2)
    seen = vars(caught.value)
    expected = {"index": 1, "call": "reset", "episode": 0, "step": 0, "action": None}
    assert seen == {**expected, "seed": episode_seed(2, 1, 0)}
    envs = LeanSyncVectorEnv([faulty("reset", at=2)])
    envs.reset(seed=2)
    with pytest.raises(BrokenEnvironmentError, match="in reset .episode 1") as caught:
        seeds_of(envs)
    assert (caught.value.seed, caught.value.step) == (episode_seed(2, 0, 1), 0)


def test_an_exception_in_init_closes_the_others():
    made = []

    def make():
        made.append(Specimen())
        return made[-1]

    with pytest.raises(BrokenEnvironmentError, match="environment 2 raised Boom.*before its") as e:
        LeanSyncVectorEnv([make, make, faulty("__init__")], restart_broken_envs=True)
    assert (e.value.index, e.value.call, e.value.seed) == (2, "__init__", None)
    assert [env.calls["close"] for env in made] == [1, 1]


def test_an_exception_in_close_is_a_warning():
    makers = [faulty("close"), Specimen]
    envs = LeanSyncVectorEnv(makers)
    envs.reset()
    with pytest.warns(UserWarning, match="environment 0 raised Boom: it went boom in close"):
        envs.close()
    assert envs.envs[1].calls["close"] == 1
    envs.close()
    assert envs.envs[1].calls["close"] == 1


def test_the_users_interrupt_passes():
    class Interrupted(Specimen):
        def step(self, action):
            raise KeyboardInterrupt

    envs = LeanSyncVectorEnv([Interrupted], restart_broken_envs=True)
    envs.reset()
    with pytest.raises(KeyboardInterrupt):
        envs.step([0])


def test_observations_and_infos_that_do_not_fit():
    class Misfit(Specimen):
        def step(self, action):
            return self.misfit

    for misfit, message in [
        ((np.zeros(4), 0.0, False, False, {}), "float64 of shape .4., not float64"),
        ((np.zeros(3), "much", False, False, {}), "returned 'much' .* as its reward"),
        ((np.zeros(3), 0.0, False, False, "info"), "as its info, which must be a dict"),
        ((np.zeros(3), 0.0, False), "a tuple of 3 instead of a tuple .observation, reward"),
    ]:
        Misfit.misfit = misfit
        envs = LeanSyncVectorEnv([Specimen, Misfit])
        envs.reset()
        with pytest.raises(BrokenEnvironmentError, match=f"environment 1.*{message}.*in step"):
            envs.step([0, 0])


def test_a_broken_environment_is_rebuilt():
    """In the same step it returns the first observation of its next episode; no other is moved."""
    steps, at = 30, 4
    envs = LeanSyncVectorEnv([Specimen, faulty("step", at=at), Specimen], True)
    envs.reset(seed=6)
    first, rows, closed = envs.envs[1], [], 0
    for number in range(steps):
        observations, rewards, terminated, truncated, infos = envs.step(np.full(3, number))
        restarted = infos.get("restarted", np.zeros(3, bool))
        assert restarted.dtype == bool and not truncated.any()
        assert ("broken" in infos) == restarted.any()
        closed += restarted.any()
        if restarted.any():
            assert restarted.tolist() == [False, True, False]
            assert "environment 1 raised Boom: it went boom in step" in infos["broken"][1]
            assert "\n" not in infos["broken"][1]
        rows.append(
            [
                (tuple(o), r, t, x)
                for o, r, t, x in zip(observations, rewards, terminated, restarted, strict=True)
            ]
        )
    breaks = [n for n, row in enumerate(rows) if row[1][3]]
    assert len(breaks) == envs.restarts == closed >= 5
    assert envs.envs[1] is not first and first.calls["close"] == 1
    for i in range(3):
        expected = expected_rows(6, i, breaks if i == 1 else [], steps)
        assert [row[i] for row in rows] == expected


def test_breaks_while_it_is_rebuilt(tmp_path):
    """In its constructor, once: the next attempt succeeds."""
    marker = tmp_path / "marker"
    marker.touch()

    def make():
        where = "__init__" if make.broken else "step"
        return Specimen(where, at=2 if where == "step" else 1, marker=make.marker)

    make.broken, make.marker = False, None
    envs = LeanSyncVectorEnv([make], True)
    envs.reset(seed=0)
    envs.step([0])
    make.broken, make.marker = True, tmp_path / "once"
    infos = envs.step([0])[4]
    assert envs.restarts == 2 and infos["restarted"].all() and "in __init__" in infos["broken"][0]


@pytest.mark.parametrize("where", ["reset", "step"])
def test_three_failures_in_a_row_are_too_many(where):
    envs = LeanSyncVectorEnv([Specimen, faulty(where)], restart_broken_envs=True)
    with pytest.raises(BrokenEnvironmentError, match="environment 1.*three times in a row"):
        envs.reset(seed=0)
        for _ in range(3):
            envs.step([0, 0])
    assert envs.restarts == 2
    twice = LeanSyncVectorEnv([faulty("step", at=2)], True)  # a step in between
    twice.reset(seed=0)
    for _ in range(20):
        twice.step([0])
    assert twice.restarts == 10


@pytest.mark.parametrize("steps", [20_000, pytest.param(100_000, marks=pytest.mark.slow)])
def test_many_steps_of_which_50_crash(steps):
    makers = [faulty("step", chance=50 / steps)] * 8
    envs = LeanSyncVectorEnv(makers, restart_broken_envs=True)
    observations, _ = envs.reset(seed=0)
    restarted, actions = 0, np.zeros(8, int)
    for _ in range(steps // 8):
        observations, *_, infos = envs.step(actions)
        if "restarted" in infos:
            restarted += int(infos["restarted"].sum())
            assert (observations[infos["restarted"], 1] == 0).all()
    assert envs.restarts == restarted
    assert 20 < restarted < 90  # about 42 are expected: a sixth of the steps are resets
    assert spaces.Box(-np.inf, np.inf, (8, 3), np.float64).contains(observations)
