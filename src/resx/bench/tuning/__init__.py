"""The search for the best configuration, and for the highest rate that holds a bound."""
