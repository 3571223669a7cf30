"""What the model is asked, when, and why."""
