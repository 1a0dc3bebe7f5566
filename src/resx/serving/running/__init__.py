"""What is known of a running server outside of its process: state, logs, who owns it."""
