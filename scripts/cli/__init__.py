"""What the commands share: flags, and what they build from words."""
