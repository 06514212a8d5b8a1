"""Evolving policies."""
