"""Flags, and objects that commands build from words on the command line."""
