"""Reads run folders: their status, their curves, and the agents in their checkpoints."""
