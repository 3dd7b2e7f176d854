"""Where images with labels come from: digits, samples, scenes, pairs:samples×2, folder:PATH, npz:PATH, ….

numpy and pillow only, so that a device can verify on real data; scikit-learn and scikit-image (extra ``data``) are
needed just for ``digits``, ``samples`` and what is made of them. Nothing is ever downloaded.
"""
