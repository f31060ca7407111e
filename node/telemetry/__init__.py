"""What a daemon tells of itself: its journal, and the facts, health, metrics and service made of it."""
