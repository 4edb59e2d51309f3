"""Objects that hold compiled functions of their variables, and so cannot be copied."""

from __future__ import annotations

from typing import NoReturn, SupportsIndex


class Uncopied:
    """Refuses `copy.copy`, `copy.deepcopy` and pickle, and says what to do instead.

    A copy would act with its own variables and train with the compiled functions of the original.
    """

    def __reduce_ex__(self, protocol: SupportsIndex) -> NoReturn:
        """All three ask here.

        Raises:
            ValueError: Always.
        """
        name = type(self).__name__
        raise ValueError(
            f"A {name} cannot be copied or pickled: its compiled update is of its own variables. "
            f"Received: copy, deepcopy or pickle of a {name}. {self._instead_of_copying()}"
        )

    def _instead_of_copying(self) -> str:
        raise NotImplementedError
