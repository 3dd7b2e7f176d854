"""What runs artifacts. No torch here, but for ``runtimes/torch.py``, the reference on build hosts."""
