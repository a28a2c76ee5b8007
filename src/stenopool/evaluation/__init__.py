"""What a speech recogniser is worth: its errors, its speed, and others beside it."""
