"""Who may be what in a fleet: the private CA, identities and their renewal, signatures of orders."""
