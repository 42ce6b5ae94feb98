"""What is computed from recorded gates; reads, never runs a model."""
