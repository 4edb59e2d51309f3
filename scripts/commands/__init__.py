"""The commands of `vantage`, one file each."""
