"""What `vantage benchmark` measures, and with what it compares."""
