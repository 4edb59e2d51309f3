"""What every room of the library may use: arguments, the terminal, and signals."""
