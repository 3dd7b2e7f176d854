"""The seam to the network: what is said under which keys, sealed for whom, and Zenoh behind it."""
