"""Layer 4: boards: which chips there are, where they sit and how they are wired."""
