"""The measurements of `vantage benchmark`, and what it compares them with."""
