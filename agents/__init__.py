"""What acts and learns: one file per algorithm, readable top to bottom."""
