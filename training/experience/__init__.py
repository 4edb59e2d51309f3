"""From environments to numbers to learn from: transitions, buffers, returns, evaluation."""
