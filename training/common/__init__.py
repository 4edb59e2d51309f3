"""What every room of the library may use: plain arguments, the terminal, and signals."""
