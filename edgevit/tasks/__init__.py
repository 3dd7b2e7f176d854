"""What a model's outputs mean: one file a task. Numpy and pillow, so that devices know it too."""
