"""The TVM runtime: opens ``model.so`` with TVM's runtime library alone, on the CPU or an NVIDIA GPU."""
