"""Trainers of Keras models on examples: `Trainer`, `Regression`, and Keras's own fit."""
