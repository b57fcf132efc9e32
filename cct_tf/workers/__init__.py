"""Several processes, one run: who they are, how they find one another, and what they say beside the collectives."""
