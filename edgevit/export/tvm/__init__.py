"""The TVM target: a captured program as one shared library of kernels that edgevit writes itself."""
