"""What an answer is worth while training."""
