"""What the commands at the top do, one package for each."""
