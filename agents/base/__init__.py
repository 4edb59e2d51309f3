"""What algorithms are built on: the agent, its two families, own losses, agents in files."""
