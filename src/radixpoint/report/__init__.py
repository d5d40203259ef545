"""A run folder becomes one page: what was found, why, and how to do it again."""
