"""Vector environments in NumPy that step all copies at once."""
