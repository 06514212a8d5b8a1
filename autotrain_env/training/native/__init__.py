"""Compiled code that trains and evaluates n networks in one call."""
