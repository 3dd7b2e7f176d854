"""Ways from a captured model and real rows to a plan of its integers, and to weights that make up for their errors."""
