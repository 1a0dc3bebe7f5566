"""The HTML page of a result, and its charts."""
