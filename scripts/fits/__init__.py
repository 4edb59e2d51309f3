"""What `vantage benchmark fit` compares: trainings of models, beside Keras's fit and PyTorch."""
