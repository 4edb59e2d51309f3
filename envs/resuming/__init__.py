"""The exact state of environments, and how they resume from it."""
