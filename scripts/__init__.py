"""The command line, and runnable examples that import the package as users do."""
