"""What all vector environments share: episodes and seeds, action masks, and values in files."""
