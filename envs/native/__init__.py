"""Vector environments in NumPy: all copies in one step."""
