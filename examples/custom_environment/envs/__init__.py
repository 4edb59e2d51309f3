"""The environments of this project: an ordinary folder called `envs`, like yours."""
