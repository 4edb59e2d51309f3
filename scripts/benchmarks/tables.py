"""The table of results in Markdown: means over seeds, intervals, and whether targets are reached.

Needs SciPy, from the extra `results`.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from vantage.scripts.benchmarks.declared import Entry, is_at_preset

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

RESAMPLES = 10_000
HEAD = (
    "| environment | algorithm | seeds | mean | interquartile mean | 95 % interval | asked "
    "| reached | steps | steps/s | rl-zoo, one run |"
)


@dataclass(frozen=True)
class Aggregate:
    """Statistics over the seeds of an entry."""

    mean: float
    iqm: float
    """Interquartile mean: of the seeds' means without the lowest and the highest ⌊n/4⌋."""
    interval: tuple[float, float] | None
    """95 % percentile-bootstrap interval of the interquartile mean; None for a single seed."""
    seeds: int


def aggregate(means: Sequence[float]) -> Aggregate:
    """Mean, interquartile mean and its interval over the seeds' mean returns.

    Source: Agarwal et al. 2021, Deep RL at the Edge of the Statistical Precipice, section 4.3; here
    the seeds of one environment are drawn, and the percentile method (Efron 1979) is used because
    bias correction is undefined where the seeds agree.
    """
    from scipy.stats import trim_mean

    values = np.asarray(means, float)  # [S]
    interval = None
    if len(values) > 1:
        low, high = bootstrapped(values, lambda x, axis: trim_mean(x, 0.25, axis=axis))
        interval = (float(low), float(high))
    return Aggregate(float(values.mean()), float(trim_mean(values, 0.25)), interval, len(values))


def bootstrapped(values: np.ndarray, statistic: Any, resamples: int = RESAMPLES) -> tuple[Any, Any]:
    """Ends of the 95 % percentile-bootstrap interval of a statistic over axis 0; reproducible.

    Args:
        values: [S] or [S, G], with at least two seeds.
        statistic: `statistic(values, axis)`.
        resamples: Number of draws of S seeds with replacement.
    """
    from scipy.stats import bootstrap

    result = bootstrap(
        (values,),
        statistic,
        n_resamples=resamples,
        vectorized=True,
        axis=0,
        method="percentile",
        random_state=np.random.default_rng(0),
    )
    return result.confidence_interval.low, result.confidence_interval.high


def is_reached(entry: Entry, found: Aggregate) -> bool | None:
    """Whether the upper end of the interval, or the mean, reaches the target.

    None without a target. A single seed has no interval: its own return counts.
    """
    if entry.asked is None:
        return None
    if entry.by_mean or found.interval is None:
        return found.mean >= entry.asked
    return found.interval[1] >= entry.asked


def table(records: Mapping[Entry, Sequence[Mapping[str, Any]]]) -> str:
    """The finished runs in Markdown, one line per entry, with remarks below."""
    lines = [HEAD, "|" + "---|" * (HEAD.count("|") - 1)]
    lines += [_line(entry, runs) for entry, runs in records.items()]
    counts = {run["episodes"] for runs in records.values() for run in runs}
    lines += ["", f"Returns: means of {'/'.join(map(str, sorted(counts)))} deterministic episodes."]
    others = []
    for entry, runs in records.items():
        seeds = [str(run["seed"]) for run in runs if not is_at_preset(entry, run)]
        others += [f"{entry.name} (seeds {', '.join(seeds)})"] * bool(seeds)
    if others:
        lines.append(f"Not trained with the current preset: {', '.join(others)}.")
    return "\n".join(lines)


def _line(entry: Entry, runs: Sequence[Mapping[str, Any]]) -> str:
    found = aggregate([run["mean"] for run in runs])
    reached = is_reached(entry, found)
    low_high = "—" if found.interval is None else " to ".join(map(shown, found.interval))
    asked = "—" if entry.asked is None else f"{shown(entry.asked)}{' (mean)' * entry.by_mean}"
    peer = "—" if entry.peer is None else shown(entry.peer)
    cells = [
        entry.env_id,
        entry.algorithm,
        str(found.seeds),
        shown(found.mean),
        shown(found.iqm),
        low_high,
        asked,
        {None: "—", True: "yes", False: "no"}[reached],
        f"{statistics.median(run['env_steps'] for run in runs):,.0f}",
        f"{statistics.median(run['steps_per_second'] for run in runs):,.0f}",
        f"{peer} ({entry.remark})" if entry.remark else peer,
    ]
    return f"| {' | '.join(cells)} |"


def shown(value: float) -> str:
    """A return with one decimal; from 1,000 on, a whole number."""
    number = f"{value:,.0f}" if abs(value) >= 1_000 else f"{value:.1f}".removesuffix(".0")
    return "0" if number == "-0" else number
