"""The results folder: file names, the tree and its publication, the files in it."""
