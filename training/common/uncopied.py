"""Objects that cannot be copied, because they hold compiled functions of their variables."""

from __future__ import annotations

from typing import NoReturn, SupportsIndex


class Uncopied:
    """Refuses `copy.copy`, `copy.deepcopy` and pickle, and says what to do instead.

    A copy would act with its own variables, but train those of the original, whose compiled
    functions it holds.
    """

    def __reduce_ex__(self, protocol: SupportsIndex) -> NoReturn:
        """Raises an error: all three kinds of copies call this method.

        Raises:
            ValueError: Always.
        """
        name = type(self).__name__
        raise ValueError(
            f"A {name} cannot be copied or pickled: its compiled update trains its own variables. "
            f"Received: copy, deepcopy or pickle of a {name}. {self._instead_of_copying()}"
        )

    def _instead_of_copying(self) -> str:
        raise NotImplementedError
