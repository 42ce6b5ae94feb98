"""The interactive walkthrough: what is there, what it is, and the commands to use it."""
