"""Runs that are changed on purpose: gates or audio replaced, everything else as it was."""
