"""Comparing policies with each other and with baselines, on the same episodes."""
