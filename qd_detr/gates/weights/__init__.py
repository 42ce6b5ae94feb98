"""From a checkpoint file, or an object of the user's, to a model: nothing is guessed and nothing filled in."""
