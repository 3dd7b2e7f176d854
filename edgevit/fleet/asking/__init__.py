"""A client: it scatters a question over nodes, hedges, gives up in time, and fuses what came back."""
