"""What commands share: flags, objects that words name, TensorFlow's start, the end on an error."""
