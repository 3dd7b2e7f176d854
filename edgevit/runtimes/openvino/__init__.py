"""OpenVINO: runs its own IR, and ONNX files."""
