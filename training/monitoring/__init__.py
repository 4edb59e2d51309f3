"""How a run does while it runs: curves, diagnosis, video, progress."""
