"""The TensorRT target: ONNX graph -> engine, with ``tensorrt`` 10 and 11 or with ``tensorrt-rtx``.

exporter  composition: the ONNX exporter's graph, then one worker process that parses and builds
options   what can be asked for, and what a flavour refuses
flavor    which of the two packages builds, and what its engines need of the machine that runs them
targets   compute capabilities: which ones are built for
graph     what TensorRT needs changed in the ONNX graph
compile   the worker's side: parser, builder, progress, the layers of network and engine
progress  the builder's phases as one fraction
refusals  the parser's and builder's errors in terms of nodes and PyTorch modules
layers    layer lists and what is counted in them
expected  what the integers of a plan make of real rows
integers  what an int8 engine is built from, held against its plan
here      what this machine can build
"""
