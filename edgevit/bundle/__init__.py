"""What devices need of a split model: opened, proved, run in one process, placed on a fleet. No torch."""
