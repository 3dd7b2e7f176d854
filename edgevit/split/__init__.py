"""ED-ViT: a vision transformer split by classes into sub-models for small devices, and a head that fuses them.

partition   which classes each part is an expert in
importance  what a unit of the trunk is worth on the images of some classes
prune       a dense, smaller transformer of the units worth most
retrain     a pruned part learns its classes, and to say "none of mine"
fuse        the head over all parts' features, trained to miss some of them

What devices need of the result is in ``edgevit.bundle``, which needs no torch.
"""
