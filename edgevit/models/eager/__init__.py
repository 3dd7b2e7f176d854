"""A user's module as it can be run here: out of its wrappers, copied, in float64, its outputs by name."""
