"""The search: strategies try designs, a judge says which hold, a cache remembers."""

from radixpoint.searching.criterion import Criterion, Verdict
from radixpoint.searching.search import open_judges, search
from radixpoint.searching.watcher import Watcher

__all__ = ["Criterion", "Verdict", "Watcher", "open_judges", "search"]
