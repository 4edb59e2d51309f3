"""Where a run's numbers go: TensorBoard event files, or nowhere."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from . import summaries

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    import keras
    import numpy as np

    from .summaries import Fields


class Writer:
    """The interface of all writers; itself it writes nothing, for runs without a log directory.

    `step` is the x-axis: environment steps, epochs or training steps.
    """

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Writes one point for each tag, all in one record."""
        self._add(step, _scalars, values)

    def histograms(self, step: int, values: Mapping[str, np.ndarray]) -> None:
        """Writes a histogram of each array, all in one record.

        Arrays may have any shape; numbers that are not finite are left out.
        """
        self._add(step, summaries.histograms, values)

    def text(self, step: int, tag: str, markdown: str) -> None:
        """Writes a text, shown as Markdown."""
        self._add(step, summaries.text, tag, markdown)

    def image(self, step: int, tag: str, pixels: np.ndarray) -> None:
        """Writes an image: uint8 `[height, width, 1, 3 or 4]`."""
        self._add(step, summaries.image, tag, pixels)

    def video(self, step: int, tag: str, gif: bytes, shape: Sequence[int]) -> None:
        """Writes an animated GIF, which browsers play; `shape` is `[..., height, width, 3]`."""
        self._add(step, summaries.video, tag, gif, shape)

    def graph(self, models: Iterable[tuple[str, keras.Layer]]) -> None:
        """Writes the layers of Keras models for the Graphs tab, from pairs of a scope and a model.

        TensorBoard shows only the last graph of a run, so pass all models in one call.
        """
        self._add(0, summaries.graph, models)

    def layout(self, charts: Mapping[str, Mapping[str, Sequence[str]]]) -> None:
        """Writes the Custom Scalars tab: category → chart → regular expressions of its tags."""
        self._add(0, summaries.layout, charts)

    def hparams(
        self, config: Mapping[str, object], metrics: Sequence[str] = (), group: str = ""
    ) -> None:
        """Writes this run's row of the HParams table; `summaries.hparams` describes it."""
        self._add(0, summaries.hparams, config, metrics, group)

    def hparams_end(self, status: Literal["success", "failure"] = "success") -> None:
        """Writes how the run ended; TensorBoard uses the first call in a run."""
        self._add(0, summaries.hparams_end, status)

    def resume(self, step: int) -> None:
        """Makes a running TensorBoard drop the points after `step`, which will be written again.

        The record for this is the start of a session.
        """
        for _ in range(2):  # critical: TensorBoard ignores the first start that it sees
            self._add(step + 1, lambda: {"session_log": {"status": "START"}})

    def flush(self) -> None:
        """Waits until everything is on the disk.

        Raises:
            OSError: The disk fails.
        """

    def close(self) -> None:
        """Closes the files."""

    def _add(self, step: int, make: Callable[..., Fields], *data: object) -> None:
        """Writes the event whose fields are `make(*data)`."""


def _scalars(values: Mapping[str, float]) -> Fields:
    points = [{"tag": tag, "simple_value": float(value)} for tag, value in values.items()]
    return {"summary": {"value": points}}
