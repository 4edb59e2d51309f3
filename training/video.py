"""Videos of episodes, under the name that the documentation shows."""

from .monitoring.video import record_episode as record_episode
from .monitoring.video import write_video as write_video
