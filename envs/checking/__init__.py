"""Checks an environment for mistakes that break training: `check_env`."""
