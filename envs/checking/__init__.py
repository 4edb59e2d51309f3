"""The parts of `check_env`."""
