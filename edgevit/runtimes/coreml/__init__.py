"""Core ML: Apple's runtime on a Mac, and the reference evaluator that proves a package on any machine."""
