"""Steps environments in parallel, each in a worker process."""

from __future__ import annotations

import os
import weakref
from typing import TYPE_CHECKING, Any, NoReturn

from gymnasium.error import ClosedEnvironmentError
from gymnasium.vector.utils import iterate

from .broken import BrokenEnvironmentError, NotAnEnvironmentError
from .processes import PATIENCE, Worker, by_value, collect, dismiss, shut
from .vector import SeededVectorEnv

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from ..common.types import Info, Make
    from .vector import Batch, Errors, Replies, Rows


class WorkerVectorEnv(SeededVectorEnv):
    """Steps environments in parallel, each in its own process.

    Args:
        env_fns: Functions that each make one environment in a worker, and again after it broke.
        timeout: Seconds in which a worker must make, reset, step or close its environment.
        restart_broken_envs: Whether to rebuild an environment that raises an exception, whose
            process ends, or that does not answer in time.

    Raises:
        BrokenEnvironmentError: An environment cannot be made.
        ValueError: An environment cannot be sent to a worker, or their spaces differ.
    """

    def __init__(
        self,
        env_fns: Sequence[Make],
        timeout: float = 60.0,
        restart_broken_envs: bool = False,
    ) -> None:
        super().__init__(len(env_fns), restart_broken_envs)
        distinct = {id(make): make for make in env_fns}  # usually a single one
        pickled = {key: _packed(make) for key, make in distinct.items()}
        self._makers = [pickled[id(make)] for make in env_fns]
        self._timeout, self._workers = timeout, list[Worker]()
        self._shut = weakref.finalize(self, shut, self._workers, timeout, os.getpid())
        try:
            for _ in env_fns:
                self._workers.append(Worker())
            for error in self._made(range(self.num_envs)).values():
                raise error
        except BaseException:
            self.close()
            raise

    def _made(self, indices: Iterable[int]) -> Errors:
        """Makes the environments of new workers; returns the errors of those that fail."""
        for index in indices:
            self._workers[index].ask("__init__", self._makers[index])
        errors = {}
        for index, answer in self._answers(indices, "__init__").items():
            if isinstance(answer, BrokenEnvironmentError):
                errors[index] = answer
            else:
                self._adopt(index, answer)
        return errors

    def step(self, actions: object) -> Batch:
        """Steps every environment; one whose episode has ended begins the next one instead."""
        self._check_open()
        each = list(iterate(self.action_space, actions))
        if len(each) != self.num_envs:
            raise ValueError(
                f"There must be an action for each of {self.num_envs} environments. Received: "
                f"{len(each)}. Pass one action per environment."
            )
        self._episodes.clock += 1
        if self._records:
            self._recording.add_actions(actions, self._episodes)
        for i, begins in enumerate(self._ended.tolist()):
            if begins:
                self._workers[i].ask("reset", self._episodes.begin(i), None)
            else:
                self._workers[i].ask("step", each[i])
        batch = self._empty_batch()
        return self._completed(batch, self._fill(batch, self._answers(range(self.num_envs))))

    def _begin(self, indices: Iterable[int], options: Info | None = None) -> Rows:
        self._check_open()
        for i in indices:
            self._workers[i].ask("reset", self._episodes.begin(i), options)
        return self._answers(indices)

    def _remake(self, indices: Sequence[int]) -> Errors:
        dismiss([self._workers[i] for i in indices], PATIENCE)
        for i in indices:
            self._workers[i] = Worker()
        return self._made(indices)

    def _call_each(
        self, name: str, arguments: Sequence[tuple[object, ...]], keywords: Mapping[str, object]
    ) -> tuple[Any, ...]:
        self._check_open()
        for worker, args in zip(self._workers, arguments, strict=True):
            worker.ask("call", name, args, keywords)
        results = tuple(self._answers(range(self.num_envs), name).values())
        for result in results:
            if isinstance(result, BrokenEnvironmentError):
                raise result
        return results

    def _ask(
        self, command: str, arguments: Mapping[int, tuple[object, ...]], patience: float = 1
    ) -> Replies:
        self._check_open()
        for i, args in arguments.items():
            self._workers[i].ask(command, *args)
        workers = {i: self._workers[i] for i in arguments}
        answers = collect(list(workers.values()), patience * self._timeout)
        return {i: (answers[one].problem, answers[one].content) for i, one in workers.items()}

    def _answers(self, indices: Iterable[int], call: str = "") -> dict[int, Any]:
        """What the workers answer, or the error of one that broke."""
        workers = {i: self._workers[i] for i in indices}
        answers = collect(list(workers.values()), self._timeout)
        contents = {}
        for i, worker in workers.items():
            problem, trace, contents[i] = answers[worker]
            if isinstance(contents[i], NotAnEnvironmentError):
                raise contents[i]
            if problem:
                contents[i] = self._broken(
                    i, problem, call=call, action=worker.action, traceback=trace
                )
        return contents

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        """Refuses copies and pickles: a worker process serves one main process."""
        raise ValueError(
            "Environments in worker processes cannot be copied or pickled. Received: copy, "
            "deepcopy or pickle of a WorkerVectorEnv. Make another with make_vec(...)."
        )

    def _check_open(self) -> None:
        if self.closed:
            raise ClosedEnvironmentError(
                "A vector environment must be open to be used. Received: a call after close(). "
                "Make a new one."
            )

    def close_extras(self) -> None:
        """Closes every environment, and ends its process even if closing fails."""
        self._shut()


def _packed(make: Make) -> bytes:
    try:
        return by_value(make)
    except Exception as error:
        raise ValueError(
            "An environment must be picklable by cloudpickle to be made in a worker process. "
            f"Received: {make!r} ({type(error).__name__}: {error}). Open files and connections "
            "inside it, or use vectorization 'sync'."
        ) from error
