"""The search: strategies try designs, a judge says which hold, a cache remembers."""

from radixpoint.searching.criterion import Criterion
from radixpoint.searching.result import Result
from radixpoint.searching.strategies import STRATEGIES
from radixpoint.searching.task import search
from radixpoint.searching.watcher import Watcher

__all__ = ["STRATEGIES", "Criterion", "Result", "Watcher", "search"]
