"""The environments of this project, in an ordinary folder called `envs`, like yours."""
