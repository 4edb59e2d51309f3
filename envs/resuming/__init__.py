"""Saves the exact state of environments and resumes them from it."""
