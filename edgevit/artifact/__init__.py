"""The artifact: a directory that holds a model, everything needed to run it, and the proof that it is right.

    edgevit.json    the manifest (below)
    model.onnx      the model file or files of the target
    edgevit.sig     the builder's signature: always for formats that run code when they are opened (see signing.py)
    golden.npz      4 rows of every input and output, under their names
    golden/N.png    the images those input rows were made from
    profiles/       measurements, added later; not part of the hashed content

It is the only thing that crosses from the build host to a device, so nothing here needs torch.
"""
