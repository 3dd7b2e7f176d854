"""The verbs: parse, call one function, render. Heavy modules are imported inside them."""
