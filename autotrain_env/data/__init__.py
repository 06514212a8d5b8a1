"""Data: handles of data sets, where they come from, their splits, and the order of minibatches."""
