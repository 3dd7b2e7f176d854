"""``edgevit serve``: a bundle or an artifact over HTTP, from a fleet or from this process.

answering    what is served, behind one protocol: a fleet, a bundle or an artifact
oip          KServe's Open Inference Protocol v2: JSON, and tensors as bytes after it
app          the routes, their bounds, and the server
live         what the dashboard shows, from this process's requests and the nodes' beats
metrics      the same for Prometheus
dashboard.*  one page that asks nothing of any other server
"""
