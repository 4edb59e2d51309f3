"""The algorithms' settings and presets. No TensorFlow in this room."""
