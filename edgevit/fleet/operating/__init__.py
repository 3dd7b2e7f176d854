"""What an operator does to a fleet: deploy, withdraw, look, measure, try one on this machine, simulate one."""
