"""Gradients without an update, and optimizers that Keras does not have, on the same step."""
