"""The TensorRT runtime: engines on an NVIDIA GPU, without torch.

lock     what an engine needs of the machine, checked before it is opened
flavor   the two packages
gpu      the GPU and driver that are here
buffers  where every tensor lies in device and pinned memory; which profile takes a batch
layers   the inspector's layer list, and times per layer
cuda     the few calls of the CUDA runtime that are used, errors in words
options  what a session can be opened with
engine   opening an engine: what differs between the flavours
device   the runtime and its session: with cuda and engine, what needs a GPU
here     what this machine can run
"""
