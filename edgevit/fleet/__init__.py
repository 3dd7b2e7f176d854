"""A bundle served by many devices: nodes that hold sub-models, clients that scatter an image and fuse what comes back.

    bus          the seam to the network: seven verbs; zenoh_bus is the only implementation
    names        the keys of everything that is said on the bus
    messages     what is said, and its bounds: JSON beside raw tensors, nothing is ever unpickled
    node         the agent on a device; client: scatter, gather, fuse

Nothing here needs torch.
"""
