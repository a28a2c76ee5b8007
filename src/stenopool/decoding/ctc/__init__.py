"""Symbols, frame by frame, to words: greedy, by beam search, or along a text that is given."""
