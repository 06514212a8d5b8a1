"""The decision process: what an episode is about, what is decided, what is seen and what is rewarded."""
