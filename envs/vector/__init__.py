"""Vector environments of any Gymnasium environment, in this process or in workers."""
