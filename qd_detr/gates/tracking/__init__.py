"""Recording of gates and the history they go to."""
