"""The OpenVINO target: our ONNX graph -> IR, ``model.xml`` and ``model.bin``.

From the graph and not from the captured program: the same numbers twenty times sooner, layers named by their modules,
integers as they were proved, and ONNX files too.

exporter  composition: the ONNX exporter's graph, then one worker process that converts and counts
options   what can be asked for
convert   the worker's side: read, reshape, save
counts    what the saved file really holds
refusals  OpenVINO's errors in terms of operators and PyTorch modules
"""
