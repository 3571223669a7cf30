"""The training questions: their sources, mixture and order, and the end of a stage."""
