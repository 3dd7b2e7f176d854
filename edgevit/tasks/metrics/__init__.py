"""How good answers are beside the truth: one file a kind of answer. Numpy alone, an image at a time."""
