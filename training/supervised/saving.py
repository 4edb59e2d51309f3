"""What trainers have in common: their state goes to a directory and comes back."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

from ..common.uncopied import Uncopied
from . import states

if TYPE_CHECKING:
    from pathlib import Path

    from ..storage.packing import State


class SavedTrainer(Uncopied, ABC):
    """A trainer whose state can be saved and loaded."""

    @abstractmethod
    def get_state(self) -> State:
        """All that a fit needs to continue."""

    @abstractmethod
    def set_state(self, state: State) -> None:
        """Continues from what `get_state` returned.

        Raises:
            ValueError: It is of other models, optimizers or losses; nothing changes.
        """

    def save(self, path: str | Path) -> None:
        """Writes the state to the directory `path`, as a checkpoint.

        Args:
            path: A new directory, or that of a saved trainer to replace.

        Raises:
            FileExistsError: `path` is something else.
        """
        states.save(path, self.get_state())

    def load(self, path: str | Path) -> None:
        """Continues from what `save` wrote, or from a fit's folder; nothing in it is executed.

        Args:
            path: The directory.

        Raises:
            ValueError: There is none, or it is of other models or optimizers; nothing changes.
        """
        self.set_state(states.load(path))

    def _instead_of_copying(self) -> str:
        return (
            "Save it (trainer.save(path)), and load it into a new "
            f"{type(self).__name__} of models that are built alike."
        )
