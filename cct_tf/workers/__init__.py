"""Several processes, one run: who they are, how they find one another, what they exchange outside collectives."""
