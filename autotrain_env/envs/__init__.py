"""The decision process as Gymnasium and Stable-Baselines3 know environments."""
