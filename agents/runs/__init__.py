"""Run folders, and what all ways to train write into them."""
