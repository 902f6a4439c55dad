"""What is compared: cases drawn from a seed, and what is right."""
