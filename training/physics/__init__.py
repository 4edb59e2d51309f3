"""Losses that hold derivatives of a model with respect to its inputs: differential equations."""
