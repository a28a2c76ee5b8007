"""Writers of the formats in which other projects keep the same weights."""
