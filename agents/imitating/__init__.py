"""Policies that imitate what would have been best in hindsight: `train dagger`."""
