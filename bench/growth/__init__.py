"""How costs grow: curves over viewers, streams, events, payload and replicas, and the unit costs that scaling needs."""
