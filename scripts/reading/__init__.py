"""Run folders read back: their status, their curves, and the agents that they hold."""
