"""A model by its name: the zoo, timm, a user's file; and the weights in a checkpoint, found by content."""
