"""TVM's kinds of functions, which say what fusion may do with them."""

ELEMENTWISE = 0
REDUCES = 4  # what follows joins it
OPAQUE = 8  # not looked into
