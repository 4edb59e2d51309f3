"""What TensorBoard reads: event files, and the records in them."""
