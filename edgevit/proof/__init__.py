"""Is it right? An artifact against its model, a manifest against itself, accuracy on data. No torch."""
