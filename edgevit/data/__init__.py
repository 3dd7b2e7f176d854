"""Where images with labels come from: digits, samples, folder:PATH, npz:PATH, cifar10:PATH, cifar100:PATH.

numpy and pillow only, so that a device can verify on real data; scikit-learn and scikit-image (extra ``data``) are
needed just for ``digits`` and ``samples``. Nothing is ever downloaded.
"""
