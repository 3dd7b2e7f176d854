"""Integers in place of floats: a plan of which layers and on which grids, made on real rows, and what it computes."""
