"""One pass of a model over data: predictions and recorded gates."""
