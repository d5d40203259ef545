"""The search: strategies try designs, a judge says which hold, a cache remembers."""
