"""Blocks that two or more models use. No model names in here."""
