"""A bundle served by many devices: nodes that hold sub-models, clients that scatter an image and fuse what comes back.

    bus        the seam to the network: seven verbs, the keys and bounds of what is said; nothing is ever unpickled
    trust      the private CA, identities, signatures
    agent      a node on a device
    operating  deploy, look, measure, simulate
    asking     a client: scatter, gather, fuse
    gateway    HTTP and the dashboard

Each floor knows those before it. Nothing here needs torch.
"""
