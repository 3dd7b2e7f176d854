"""The two inert rows that the entry points name; nothing heavy is imported here."""

from edgevit.registry import Row

EXPORTER = Row("pt2", "edgevit_pt2.target:Pt2Exporter", "edgevit-pt2", ("torch",), "PyTorch's exported program archive")
RUNTIME = Row("pt2", "edgevit_pt2.target:Pt2Runtime", "edgevit-pt2", ("torch",), "torch.export.load", formats=("pt2",))
