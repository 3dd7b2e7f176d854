"""The Core ML target: captured program -> mlprogram package: fp16 with float32 islands, fp32, or int8.

exporter   composition of the parts below
options    what can be asked for
program    the captured program as coremltools can read it, every node with a number that leads to its module
operators  PyTorch operators that coremltools translates wrongly or not at all
kinds      results are booleans, integers or real numbers as in PyTorch
convert    the call of coremltools: silent, with progress and a deadline, errors in terms of operators and modules
precision  which operations stay in float32, and what the saved package really holds
integers   the pairs and stored weights of a plan
places     what is computed of places in a map, in float32 always
layout     four-dimensional token streams and 1x1 convolutions for the Neural Engine
package    metadata, and a folder that is the same for the same model
here       what this machine can build
"""
