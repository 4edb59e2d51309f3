"""Adversarial training: `GAN`, its losses, penalties, data and metrics."""
