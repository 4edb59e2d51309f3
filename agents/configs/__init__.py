"""The algorithms' settings, presets and registry. No TensorFlow in this room."""
