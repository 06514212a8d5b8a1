"""N networks in training, side by side: architectures, initialisation, optimisers, states to go back to."""
