"""The forms that a model can be exported in, measured side by side: which file to serve."""
