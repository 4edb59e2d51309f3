"""Where experience comes from; knows nothing of ours."""
