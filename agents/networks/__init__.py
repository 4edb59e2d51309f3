"""The agents' Keras models, and distributions in TensorFlow."""
