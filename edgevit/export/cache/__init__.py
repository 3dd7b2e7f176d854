"""What earlier exports found out, kept for those that would find the same: ``$EDGEVIT_HOME/cache``.

    recall   finds a figure again, or has it made and keeps it
    content  all that decides a figure, as one hash: weights, code, versions, rows; None where that cannot be said
    store    files on the disk: private, bounded, each with a hash of itself; a bad one is no file

Only numbers are kept, none of them a pickle: answers of the reference, and figures. Programs are traced anew, since
``torch.export.load`` may unpickle what it reads; the proof of an artifact is never kept.
"""
