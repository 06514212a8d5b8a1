"""Agents that train networks: what is built on top of `autotrain_env`."""
