"""From a model to a target's files. Imports torch; never imports ``edgevit.runtimes``."""
