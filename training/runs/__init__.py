"""A training run: its folder, its settings, its checkpoints, and the loop."""
