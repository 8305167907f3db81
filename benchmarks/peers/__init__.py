"""holdfast beside its peers: one adapter per library, and what is measured of all of them in the same way."""
