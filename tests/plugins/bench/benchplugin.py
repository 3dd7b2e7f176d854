"""Runtimes for onnx: one runs, one dies, one is never here. Targets: one crashes, one declines, one is missing."""

import os
import signal

from edgevit.errors import Unsupported
from edgevit.export.base import Options
from edgevit.registry import Here, Row
from edgevit.runtimes.onnxruntime import OnnxRuntime


class Twin(OnnxRuntime):
    name = "twin"


class Dying(OnnxRuntime):
    name = "dying"

    def open(self, artifact, *, threads, provider, options):
        os.kill(os.getpid(), signal.SIGSEGV)


class Crashing:
    name, precisions, options = "crashing", ("fp32",), Options

    def __init__(self):
        os.kill(os.getpid(), signal.SIGSEGV)


class Picky:
    name, precisions, options = "picky", ("fp32",), Options

    def write(self, capture, folder, *, precision, options, context):
        raise Unsupported("picky has no Softmax", hint="use -t onnx")


def nowhere():
    return Here(False, "needs a moon base")


TWIN = Row("twin", "benchplugin:Twin", "twin", (), "onnxruntime again", formats=("onnx",))
DYING = Row("dying", "benchplugin:Dying", "dying", (), "dies", formats=("onnx",))
LUNAR = Row("lunar", "benchplugin:Twin", "lunar", (), "far", formats=("onnx",), here="benchplugin:nowhere")
CRASHING = Row("crashing", "benchplugin:Crashing", "x", (), "crashes")
PICKY = Row("picky", "benchplugin:Picky", "x", (), "declines")
ABSENT = Row("absent", "benchplugin:Nothing", "edgevit[absent]", ("a-package-that-is-not",), "")
