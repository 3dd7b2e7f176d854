"""An ONNX file as the model: from the file to a ``Prepared``, without torch.

prepare    composition: what a build needs, from the file and the request
file       the file: is it ONNX, whole, of this age, and what it may hold
refusals   what a graph may hold that no target here takes, in words
ends       inputs and outputs: which is the image, what is pinned
facts      what the file says about itself: labels, preprocessing, classes
graph      the graph in standard operators that exporters rewrite
original   what ONNX Runtime answers with the file as it is: the reference
trials     copies of the graph that round or jitter: the noise
precision  what fp16 must leave alone
counts     parameters and multiply-accumulates
sessions   the worker's side: the only module that runs a graph
"""
