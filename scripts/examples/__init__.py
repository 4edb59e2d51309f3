"""Short runnable scripts, one per job."""
