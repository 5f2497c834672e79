"""Processes killed at random moments, again and again: see ``__main__``."""
