"""How an agent acts in NumPy: observations, host networks, actions. No TensorFlow in this room."""
