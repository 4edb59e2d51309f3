"""What all rooms of `envs` share: types, arguments, episodes and seeds, masks, values in files."""
