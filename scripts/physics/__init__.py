"""What `vantage benchmark physics` compares: a differential equation, beside DeepXDE."""
