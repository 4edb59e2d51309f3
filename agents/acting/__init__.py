"""Acting in NumPy: observations, networks, action distributions. No TensorFlow in this room."""
