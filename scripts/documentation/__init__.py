"""Tools that draw the pictures of the README and the documentation."""
