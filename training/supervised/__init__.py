"""Trainers of Keras models on examples: `Regression` and `GAN`."""
