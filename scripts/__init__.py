"""The command line, and the runnable examples, written as a user would write them."""
