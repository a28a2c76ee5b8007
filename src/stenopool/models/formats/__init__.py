"""The formats in which other projects keep the same weights: a reader and a writer for each."""
