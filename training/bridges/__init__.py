"""Losses of other frameworks, PyTorch and JAX, as losses on the host."""
