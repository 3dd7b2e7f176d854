"""What is learned for each kind of target: how a step sees images beside their truth, and its loss."""
