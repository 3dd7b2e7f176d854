"""One file a family: train form, deploy form, variants. Their rows are in zoo.py, which needs no torch."""
