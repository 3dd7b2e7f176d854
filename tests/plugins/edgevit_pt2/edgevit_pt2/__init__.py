"""PyTorch's .pt2 archive as an edgevit target."""
