"""Policies: what decides. Schedules, trained agents, and the loop that evaluates them all."""
