"""What a model is worth: the numbers of an evaluation, each with its interval and beside two trivial baselines."""
