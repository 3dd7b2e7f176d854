"""Facts about engines that both sides of a target share: where it is built, and where it runs."""
