"""Tiny environments and simulators whose optimum is known."""
