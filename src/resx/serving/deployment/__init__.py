"""Versions into service and out of it: deploy, rehearse, prove, roll back, on one server or several."""
