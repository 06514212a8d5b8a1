"""A policy drives anyone's training loop in PyTorch, by `state_dict` alone."""
