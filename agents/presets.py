"""The presets, under the name that the documentation shows."""

from .configs.presets import PRESETS as PRESETS
from .configs.presets import Preset as Preset
