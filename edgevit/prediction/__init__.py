"""Pictures in, answers out: where pictures come from, the model that looks at them, where its answers go.

inputs (files, folders, globs, lists, videos, cameras) · given (arrays and pictures of a caller) ─Picture→
    predictor ─Prediction | Failure→ outputs (lines, JSON, JSON lines, CSV)
"""
