"""The agents' Keras models, and action distributions in TensorFlow."""
