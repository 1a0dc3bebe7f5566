"""The run folder: weights, settings and metrics, who may write into it, and all the runs of a folder side by side."""
